// The list of campaigns, kept fresh by asking again every few seconds.

import { getJson } from "./api.js";
import { byId, element, showMessage } from "./element.js";
import { connectionSign } from "./events.js";
import { duration, number, percent, timeElement, withError } from "./format.js";
import { macroAverage } from "./measurements.js";

const REFRESH_MS = 3000;
const PAGE = 50;
const rowsById = new Map();
const bestTrials = new Map();
const connected = connectionSign(byId("connection"));
let wanted = PAGE;

/** Return up to `wanted` campaigns, newest first, and whether there are older ones. */
async function campaigns() {
  const found = [];
  let next = "";
  while (found.length < wanted && next !== null) {
    const page = await getJson(`/v1/campaigns?limit=${PAGE}${next && `&before=${encodeURIComponent(next)}`}`);
    found.push(...page.items);
    next = page.next ?? null;
  }
  return { found, hasMore: next !== null };
}

/** The recommended trial, asked for again when the recommendation changes or the campaign ends. */
async function bestMacroAverage(campaign) {
  const id = campaign.summary.recommendation?.trial_id;
  if (!id) return null;
  const key = `${id}|${campaign.state}`;
  if (!bestTrials.has(key)) bestTrials.set(key, await getJson(`/v1/trials/${encodeURIComponent(id)}`));
  const trial = bestTrials.get(key);
  const holdout = macroAverage(trial, campaign.spec.objectives, "holdout");
  return {
    split: holdout ? "holdout" : "search",
    ...(holdout ?? macroAverage(trial, campaign.spec.objectives, "search")),
  };
}

function row(campaign, best) {
  const { evaluations_done: done, evaluations_total: total, seconds_left: left } = campaign.progress;
  const bar = element("progress", { max: total, value: done, "aria-label": `Progress of ${campaign.spec.name}` });
  const link = element("a", { href: `/campaigns/${encodeURIComponent(campaign.id)}` }, campaign.spec.name);
  const cell = (label, child) => element("td", { class: "number", "data-label": label }, child);
  const macro = best?.value === undefined ? "–" : `${withError(best.value, best.standard_error)} ${best.split}`;
  return element(
    "tr",
    { "data-campaign": campaign.id },
    element("th", { scope: "row", title: campaign.id }, link),
    element(
      "td",
      {},
      element("span", { class: "state", "data-state": campaign.state, title: campaign.reason }, campaign.state),
    ),
    element(
      "td",
      { class: "progress" },
      bar,
      element("span", { class: "quiet", title: percent(done / total) }, `${done} / ${total}`),
    ),
    cell("Time left", duration(left)),
    cell("Hypervolume", number(campaign.summary.hypervolume)),
    cell("Best macro-average", macro),
    element("td", { "data-label": "Created" }, timeElement(campaign.created_at)),
  );
}

/** Replace only the rows that changed, so that focus and selection survive. */
async function show({ found, hasMore }) {
  const body = byId("rows");
  for (const [index, campaign] of found.entries()) {
    const fresh = row(campaign, await bestMacroAverage(campaign).catch(() => null));
    const old = rowsById.get(campaign.id);
    const kept = old?.outerHTML === fresh.outerHTML ? old : fresh;
    const hadFocus = kept !== old && old?.contains(document.activeElement);
    if (old && kept === fresh) old.replaceWith(fresh);
    rowsById.set(campaign.id, kept);
    if (body.children[index] !== kept) body.insertBefore(kept, body.children[index] ?? null);
    if (hadFocus) kept.querySelector("a").focus();
  }
  byId("scroll").hidden = found.length === 0;
  byId("more").hidden = !hasMore;
  const empty = "No campaign yet. Start one with: mergefront launch SPEC.yaml – or POST a spec to /v1/campaigns.";
  showMessage(byId("message"), found.length ? "" : empty);
}

async function refresh() {
  try {
    await show(await campaigns());
    connected(true);
  } catch (error) {
    connected(false);
    if (!rowsById.size)
      showMessage(
        byId("message"),
        `The campaigns could not be read: ${error.message}. Is the service running? Trying again.`,
        true,
      );
  }
}

byId("more").addEventListener("click", () => {
  wanted += PAGE;
  refresh();
});

for (;;) {
  if (!document.hidden) await refresh();
  await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
}
