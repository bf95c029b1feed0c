// The words and numbers of a campaign's page: header, recommendation, trials that were pruned or failed.

import { showActions } from "./actions.js";
import { pullCommand } from "./downloads.js";
import { byId, element, setText } from "./element.js";
import { count, duration, number, percent, short, timeElement, withError } from "./format.js";
import { macroAverage, trialName } from "./measurements.js";

const SHOWN_ENDS = 50;
const ANNOUNCED_STEP = 0.1; // a screen reader hears every tenth of the progress, not every trial

/** Show name, state, progress, facts and buttons of a campaign. */
export function showHeader(campaign, handlers) {
  const { spec, pool, state, progress, summary } = campaign;
  document.title = `${spec.name} · Mergefront`;
  setText(byId("name"), spec.name);
  setText(byId("state"), state);
  byId("state").dataset.state = state;
  byId("reason").hidden = !campaign.reason;
  setText(byId("reason"), campaign.reason ?? "");
  byId("notes").hidden = !spec.notes;
  setText(byId("notes"), spec.notes);
  about(byId("about"), campaign, spec, pool);
  byId("progress").max = progress.evaluations_total;
  byId("progress").value = progress.evaluations_done;
  announce(state, progress);
  showActions(byId("actions"), campaign.id, state, handlers);
  campaign.fetchedAt = performance.now();
  facts(byId("facts"), [
    [
      "Evaluations",
      `${progress.evaluations_done} of ${progress.evaluations_total}`,
      "Trials that ended, of the baselines and the budget",
    ],
    ["Running now", String(progress.running), "Trials that an actor is evaluating"],
    ["Time left", timeLeft(campaign), "Estimated from the evaluations so far", "time-left"],
    ["Elapsed", duration(progress.seconds_elapsed), "Since the first trial was started"],
    ["Actors busy", percent(progress.actor_utilization), "Share of the actors' time spent on trials"],
    [
      "Hypervolume",
      number(summary.hypervolume),
      "Volume between the front and the reference point, on the search items",
    ],
    ["On the front", count(summary.front.length, "trial"), "Trials that no other one beats on every objective"],
    ...(spec.evaluation.racing ? raceFacts(campaign) : []),
  ]);
}

/** What a race did. The spec is fixed, so that a page has these facts from the start or never. */
function raceFacts({ trial_counts: counts, progress }) {
  const items = progress.search_item_evaluations.toLocaleString("en");
  return [
    ["Pruned", count(counts.pruned ?? 0, "trial"), "Trials that a race stopped after a part of their search items"],
    ["Items scored", items, "Answers to items of tasks, on the search items, over all trials"],
  ];
}

function timeLeft({ state, progress, fetchedAt }) {
  if (progress.seconds_left === null || progress.seconds_left === undefined) return "–";
  const passed = state === "running" ? (performance.now() - fetchedAt) / 1000 : 0;
  return duration(progress.seconds_left - passed);
}

/** Count the time left down between two refreshes. */
export function tickTimeLeft(campaign) {
  const node = byId("facts").querySelector("[data-fact='time-left']");
  if (node) setText(node, timeLeft(campaign));
}

function about(node, campaign, spec, pool) {
  const parts = [
    campaign.id,
    `${count(pool.checkpoints.length, "checkpoint")} of ${short(pool.parameter_count)} parameters`,
    `${pool.architecture}, ${pool.dtype}`,
    `${spec.space.kind.replaceAll("_", " ")} by ${spec.strategy.kind.replaceAll("_", "-")}`,
    count(spec.objectives.length, "objective"),
  ];
  node.replaceChildren(`${parts.join(" · ")} · created `, timeElement(campaign.created_at));
}

function facts(node, entries) {
  if (!node.children.length) {
    const pair = ([label, , title, key]) =>
      element("div", { title }, element("dt", {}, label), element("dd", { "data-fact": key }));
    node.replaceChildren(...entries.map(pair));
  }
  entries.forEach(([, value], index) => setText(node.children[index].lastChild, value));
}

function announce(state, progress) {
  const share = progress.evaluations_total ? progress.evaluations_done / progress.evaluations_total : 0;
  const step = Math.floor(share / ANNOUNCED_STEP) * ANNOUNCED_STEP;
  setText(byId("announcer"), `Campaign ${state}, ${percent(step)} of the evaluations done.`);
}

/** Show which trial to take and why. */
export function showRecommendation({ objectives, front, baselines, recommendation }) {
  byId("recommendation").hidden = !recommendation;
  if (!recommendation) return;
  const id = recommendation.trial_id;
  const trial = [...front, ...baselines].find((one) => one.id === id);
  const scores = ["search", "holdout"]
    .map((split) => [split, trial && macroAverage(trial, objectives, split)])
    .filter(([, found]) => found);
  const told = scores
    .map(([split, found]) => `${withError(found.value, found.standard_error)} on ${split} items`)
    .join(", ");
  setText(byId("recommended-trial"), trial ? trialName(trial) : (id ?? "No trial"));
  setText(byId("recommendation-reason"), recommendation.reason + (told ? ` (Macro-average ${told}.)` : ""));
  if (byId("recommendation-get").dataset.trial === id) return;
  byId("recommendation-get").dataset.trial = id;
  byId("recommendation-get").replaceChildren(...(id ? [pullCommand(id)] : []));
}

/** List the trials that a race stopped, each with its reason. */
export function showPruned(trials) {
  showEnds("pruned", trials, "Stopped by the race after a part of the search items; the plot has their estimates.");
}

/** List the trials that ended without a score, each with its reason. */
export function showFailures(trials) {
  showEnds("failures", trials, "Infeasible: no usable numbers. Failed: a fault outlived its retries.");
}

function showEnds(section, trials, explanation) {
  byId(section).hidden = !trials.length;
  const more = trials.length > SHOWN_ENDS ? ` The latest ${SHOWN_ENDS} are listed.` : "";
  setText(byId(`${section}-note`), `${count(trials.length, "trial")}. ${explanation}${more}`);
  const list = byId(`${section}-list`);
  const signature = trials.map((trial) => trial.id).join();
  if (list.dataset.shown === signature) return;
  list.dataset.shown = signature;
  list.replaceChildren(...trials.slice(0, SHOWN_ENDS).map(end));
}

function end(trial) {
  const attempts = trial.attempts > 1 ? ` after ${count(trial.attempts, "attempt")}` : "";
  const name = element("strong", {}, trialName(trial));
  return element(
    "li",
    {},
    name,
    ` ${trial.state}${attempts}: ${trial.reason ?? "no reason was given"} · `,
    trial.finished_at && timeElement(trial.finished_at),
  );
}
