// The scatter plot of the front: every candidate, the front, the baselines, the recommended one; pruned ones faintly.

import { isMaximized, measured, shortName, trialName, weights } from "./measurements.js";
import { number, withError } from "./format.js";
import { draw, palette } from "./plot.js";

const MAX_CANDIDATES = 5000; // beyond that an SVG plot stops being smooth
const HOVER_WEIGHTS = 12;
const CLEAR = { symbol: "circle", size: 6, opacity: 0.55 };
const FAINT = { symbol: "circle-open", size: 6, opacity: 0.5 };

/** Draw `view` = {objectives, told, front, baselines, recommended, x, y, split} and return a sentence about it. */
export async function drawFront(node, view) {
  const colors = palette();
  const placed = placer(view);
  const special = new Set([...view.front, ...view.baselines].map((trial) => trial.id));
  const pruned = thin(view.told.filter((trial) => trial.state === "pruned"));
  const candidates = thin(view.told.filter((trial) => trial.state === "complete" && !special.has(trial.id)));
  const groups = [
    cloud("pruned (estimates)", pruned.map(placed).filter(Boolean), { ...FAINT, color: colors.candidate }),
    cloud("candidates", candidates.map(placed).filter(Boolean), { ...CLEAR, color: colors.candidate }),
    frontLine(view.front.map(placed).filter(Boolean), view, colors),
    group("front", view.front, placed, { color: colors.front, symbol: "circle", size: 9 }),
    ...baselines(view, placed, colors, node.clientWidth >= 500),
    group("recommended", recommended(view), placed, { color: colors.best, symbol: "star", size: 17 }),
  ];
  const traces = groups.filter((trace) => trace.x.length);
  const sense = (name) => (isMaximized(view.objectives, name) ? "higher is better" : "lower is better");
  const axisTitle = (name) => `${shortName(view.objectives, name)} (${view.split}, ${sense(name)})`;
  await draw(node, traces, { xTitle: axisTitle(view.x), yTitle: axisTitle(view.y) });
  return note(traces, view);
}

/** Return a function from a trial to its point on the two axes, or null where it was not measured. */
function placer({ objectives, x, y, split }) {
  return (trial) => {
    const [across, up] = [measured(trial, objectives, x, split), measured(trial, objectives, y, split)];
    return across && up ? { trial, across, up } : null;
  };
}

/** Leave evenly spaced ones out of a list that is too long to draw. */
function thin(trials) {
  const step = Math.ceil(trials.length / MAX_CANDIDATES);
  return step > 1 ? trials.filter((_, index) => index % step === 0) : trials;
}

function coordinates(points) {
  return {
    x: points.map((point) => point.across.value),
    y: points.map((point) => point.up.value),
    text: points.map(hover),
    hovertemplate: "%{text}<extra></extra>",
  };
}

function cloud(name, points, marker) {
  return { name, mode: "markers", marker, ...coordinates(points) };
}

function group(name, trials, placed, { color, symbol, size }) {
  const points = trials.map(placed).filter(Boolean);
  const bars = (axis) => ({
    type: "data",
    array: points.map((point) => point[axis].standard_error ?? 0),
    color,
    thickness: 1,
    width: 0,
  });
  const marker = { color, symbol, size, line: { color: palette().text, width: 0.7 } };
  return { name, mode: "markers", marker, error_x: bars("across"), error_y: bars("up"), ...coordinates(points) };
}

/** Parents and the other baselines, their names beside them where there is room. */
function baselines(view, placed, colors, hasRoom) {
  const kinds = [
    ["parents", "parent", { color: colors.parent, symbol: "square", size: 9 }],
    ["soups", "soup", { color: colors.soup, symbol: "diamond", size: 12 }],
  ];
  return kinds.map(([name, kind, marker]) => {
    const isOfKind = (trial) => (trial.candidate.kind === "parent") === (kind === "parent");
    const trials = view.baselines.filter((trial) => isOfKind(trial) && placed(trial));
    const areSoups = kind === "parent" || trials.every((trial) => trial.candidate.kind === kind);
    const trace = group(areSoups ? name : "other baselines", trials, placed, marker);
    if (!hasRoom) return trace;
    const names = trials.map((trial) => escape(trialName(trial)));
    return {
      ...trace,
      mode: "markers+text",
      text: names,
      textposition: "top right",
      hovertext: trace.text,
      hovertemplate: "%{hovertext}<extra></extra>",
    };
  });
}

/** The line joins the front's trials that no other one of them beats on both axes shown. */
function frontLine(points, view, colors) {
  const sense = (name) => (isMaximized(view.objectives, name) ? 1 : -1);
  const [right, top] = [sense(view.x), sense(view.y)];
  const byX = [...points].sort((a, b) => right * (b.across.value - a.across.value) || top * (b.up.value - a.up.value));
  let best = -Infinity;
  const joined = byX.filter((point) => top * point.up.value > best && ((best = top * point.up.value), true));
  return {
    name: "front line",
    mode: "lines",
    showlegend: false,
    hoverinfo: "skip",
    line: { color: colors.front, width: 1.5 },
    x: joined.map((point) => point.across.value),
    y: joined.map((point) => point.up.value),
  };
}

const recommended = (view) => [...view.front, ...view.baselines].filter((trial) => trial.id === view.recommended);

function hover({ trial, across, up }) {
  const shown = weights(trial)
    .slice(0, HOVER_WEIGHTS)
    .map(([name, value]) => `${escape(name)} ${number(value, 3)}`);
  const values = `x ${withError(across.value, across.standard_error)}, y ${withError(up.value, up.standard_error)}`;
  const stopped = trial.state === "pruned" ? ["pruned: estimates from a part of the items"] : [];
  return [`<b>${escape(trialName(trial))}</b> (${trial.id})`, values, ...stopped, ...shown].join("<br>");
}

/** Plotly reads a few HTML tags in text. */
const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

function note(traces, view) {
  const shown = traces.filter((trace) => trace.name !== "front line").reduce((sum, trace) => sum + trace.x.length, 0);
  if (!shown && view.split === "holdout")
    return "No trial is scored on the holdout items yet: that follows when the search has ended.";
  if (!shown) return "No trial has a score yet. The baselines come first.";
  const bars = "Bars: ± 1 standard error.";
  const line =
    "The line joins what is non-dominated on these two axes" +
    (view.objectives.length > 2 ? `; the front is over all ${view.objectives.length} objectives.` : ".");
  return `${bars} ${line}`;
}
