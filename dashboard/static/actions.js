// The buttons that steer a campaign.

import { post } from "./api.js";
import { element } from "./element.js";

/** The steps that a user can take from each state (campaigns.states.CAMPAIGN_STEPS). */
export const STEPS = {
  queued: ["pause", "cancel"],
  running: ["pause", "stop", "cancel"],
  paused: ["resume", "stop", "cancel"],
  stopping: ["cancel"],
  complete: [],
  failed: [],
  cancelled: [],
};

/** Whether a campaign in that state has ended. */
export const isFinal = (state) => STEPS[state]?.length === 0;

const MEANING = {
  pause: "Let running evaluations end, start no new ones until resumed",
  resume: "Go on with the search",
  stop: "End the search now, then score the front on the holdout items",
  cancel: "Drop running evaluations and end for good; finished trials stay",
};

/** Fill `node` with the buttons for `state`. `onDone` runs after a step, `onError` gets what went wrong, "" before. */
export function showActions(node, campaignId, state, { onDone, onError }) {
  if (node.dataset.state === state) return;
  node.dataset.state = state;
  node.replaceChildren(...(STEPS[state] ?? []).map((step) => button(node, campaignId, step, { onDone, onError })));
}

function button(node, campaignId, step, { onDone, onError }) {
  const take = async () => {
    if (step === "cancel" && !(await confirmed(step))) return;
    onError("");
    node.querySelectorAll("button").forEach((one) => (one.disabled = true));
    try {
      await post(`/v1/campaigns/${encodeURIComponent(campaignId)}/${step}`);
    } catch (error) {
      onError(`Could not ${step} the campaign: ${error.message}`);
    }
    node.dataset.state = "";
    await onDone();
  };
  const label = step[0].toUpperCase() + step.slice(1);
  return element("button", { type: "button", title: MEANING[step], "data-step": step, click: take }, label);
}

/** Ask before the step that cannot be taken back. */
function confirmed(step) {
  const dialog = element(
    "dialog",
    { "aria-label": "Confirm" },
    element(
      "form",
      { method: "dialog" },
      element("h2", {}, "Cancel this campaign?"),
      element("p", {}, `${MEANING[step]}. This cannot be taken back.`),
      element(
        "div",
        { class: "actions" },
        element("button", { value: "" }, "Keep it"),
        element("button", { value: step, class: "danger" }, "Cancel campaign"),
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === step);
    }),
  );
}
