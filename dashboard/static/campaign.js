// One campaign: fetch it, follow its events, draw what changed.

import { isFinal } from "./actions.js";
import { getJson } from "./api.js";
import { byId, showMessage } from "./element.js";
import { connectionSign, follow, throttled } from "./events.js";
import { showFailures, showHeader, showPruned, showRecommendation, tickTimeLeft } from "./facts.js";
import { drawFront } from "./front.js";
import { drawHypervolume } from "./hypervolume.js";
import { fillPickers, picked } from "./pickers.js";
import { onSchemeChange } from "./plot.js";
import { FrontTable } from "./table.js";
import { Trials } from "./trials.js";

const REDRAW_MS = 1000;
const id = decodeURIComponent(location.pathname.split("/").at(-1));
const path = `/v1/campaigns/${encodeURIComponent(id)}`;
const trials = new Trials(id);
const table = new FrontTable(byId("table-head"), byId("table-body"));
const page = { campaign: null, front: null, isLoading: true };

/** Draw the plots, unless they show the same already. */
async function drawPlots() {
  if (!page.front) return;
  const view = { ...frontView(), told: trials.told(), ...picked() };
  const shown = JSON.stringify({ ...view, told: view.told.length });
  if (shown === page.shown) return;
  page.shown = shown;
  byId("front-note").textContent = await drawFront(byId("front-plot"), view);
  byId("hypervolume-note").textContent = await drawHypervolume(byId("hypervolume-plot"), view.told);
}

function frontView() {
  const { objectives, front, baselines, recommendation } = page.front;
  return { objectives, front, baselines, recommended: recommendation?.trial_id };
}

function emptyFront({ recommendation }) {
  return recommendation ? "Empty: no trial keeps all constraints." : "Empty until the first trial is scored.";
}

function showTable() {
  const view = frontView();
  table.show(view);
  byId("table").hidden = !view.front.length;
  byId("table-note").textContent = view.front.length
    ? "Value ± 1 standard error. On the front: no other trial is as good on all search objectives and better on one."
    : emptyFront(page.front);
}

/** Fetch what changed and show it. A campaign that cannot be read leaves the page as it was, with the reason on top. */
async function refresh() {
  try {
    page.campaign = await getJson(path);
    byId("content").hidden = false;
    showHeader(page.campaign, { onDone: refresh, onError: (text) => showMessage(byId("message"), text, true) });
    page.front = await getJson(`${path}/front`);
    fillPickers(page.front.objectives, drawPlots);
    showRecommendation(page.front);
    showTable();
    if (page.isLoading || page.isFailing) showMessage(byId("message"), "");
    page.isLoading = page.isFailing = false;
    await trials.update(drawPlots);
    showPruned(trials.pruned());
    showFailures(trials.failures());
    await drawPlots();
  } catch (error) {
    page.isFailing = true;
    page.isMissing = error.status === 404;
    const next = page.isMissing ? "Choose one from the list of campaigns." : "Trying again.";
    showMessage(byId("message"), `The campaign could not be read: ${error.message}. ${next}`, true);
    if (!page.isMissing) setTimeout(refreshSoon, 5 * REDRAW_MS);
  }
}

const refreshSoon = throttled(refresh, REDRAW_MS);
const connected = connectionSign(byId("connection"));

onSchemeChange(() => {
  page.shown = "";
  drawPlots();
});
setInterval(() => page.campaign && tickTimeLeft(page.campaign), REDRAW_MS);
await refreshSoon();
if (!page.isMissing) {
  const onConnection = (isConnected) => {
    connected(isConnected);
    if (isConnected) refreshSoon(); // what happened while the stream was broken
  };
  const isOver = async () => {
    await refresh();
    return isFinal(page.campaign?.state);
  };
  follow(`${path}/events`, { onEvent: refreshSoon, onConnection, isOver });
}
