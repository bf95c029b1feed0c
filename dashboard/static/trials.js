// All trials of a campaign, fetched little by little.

import { getJson } from "./api.js";

const PAGE = 500;
const FINAL = new Set(["complete", "pruned", "infeasible", "failed", "cancelled"]);

/** The trials by number. Each `update` asks only for those behind the last one before which all are final. */
export class Trials {
  constructor(campaignId) {
    this.path = `/v1/campaigns/${encodeURIComponent(campaignId)}/trials`;
    this.byNumber = [];
    this.settled = -1;
  }

  /** Fetch what is new or may have changed; `onPage` is called after each page, so that a long list shows early. */
  async update(onPage = () => {}) {
    let after = this.settled;
    for (;;) {
      const { items, next } = await getJson(`${this.path}?after=${after}&limit=${PAGE}`);
      for (const trial of items) this.byNumber[trial.number] = trial;
      this.settle();
      if (next === null) return;
      after = next;
      onPage();
    }
  }

  settle() {
    while (FINAL.has(this.byNumber[this.settled + 1]?.state)) this.settled += 1;
  }

  all() {
    return this.byNumber.filter(Boolean);
  }

  /** Those with a score, be it an estimate, in the order in which they were told. */
  told() {
    return this.all()
      .filter((trial) => trial.told !== null && (trial.state === "complete" || trial.state === "pruned"))
      .sort((a, b) => a.told - b.told);
  }

  /** Those that a race stopped, the latest first. */
  pruned() {
    return this.all()
      .filter((trial) => trial.state === "pruned")
      .reverse();
  }

  /** Those that ended without a score, the latest first. */
  failures() {
    return this.all()
      .filter((trial) => trial.state === "failed" || trial.state === "infeasible")
      .reverse();
  }
}
