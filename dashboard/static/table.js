// The table of the front beside the baselines: one row per trial, sortable by every column.

import { getPanel } from "./downloads.js";
import { element } from "./element.js";
import { number, valueAndError } from "./format.js";
import { isMaximized, MACRO, measured, objectiveName, shortName, trialName, weights } from "./measurements.js";

const SHOWN_WEIGHTS = 4;
const KINDS = {
  parent: "parent",
  soup: "soup",
  task_arithmetic: "task arithmetic",
  point: "given point",
  imported: "imported",
  candidate: "front",
};

/** Rows are kept by trial, so that an open list of files stays open while the table is redrawn. */
export class FrontTable {
  constructor(head, body) {
    this.head = head;
    this.body = body;
    this.panels = new Map();
    this.sort = null;
    this.drawn = "";
  }

  /** Show `view` = {objectives, front, baselines, recommended}; nothing is touched when nothing changed. */
  show(view) {
    this.view = view;
    const trials = [...view.front, ...view.baselines.filter((one) => !view.front.some((trial) => trial.id === one.id))];
    const splits = trials.some((trial) => trial.measurements.some((one) => one.split === "holdout"))
      ? ["search", "holdout"]
      : ["search"];
    this.columns = columns(view.objectives, splits);
    this.sort ??= { key: `${MACRO}|search`, descending: true };
    const content = JSON.stringify([trials, view.recommended, this.sort]);
    if (content === this.drawn) return;
    this.drawn = content;
    this.drawHead(view.objectives, splits);
    this.body.replaceChildren(...this.ordered(trials).map((trial) => this.row(trial)));
  }

  drawHead(objectives, splits) {
    const focused = document.activeElement?.dataset?.key;
    const group = (name) => {
      const sense = isMaximized(objectives, name) ? "" : " (lower is better)";
      return element(
        "th",
        { colspan: splits.length, scope: "colgroup", class: "number", title: name },
        shortName(objectives, name) + sense,
      );
    };
    const fixed = (label) => element("th", { rowspan: 2, scope: "col" }, label);
    const groups = [MACRO, ...objectives.map(objectiveName)].map(group);
    this.head.replaceChildren(
      element("tr", {}, fixed("Trial"), ...groups, fixed("Weights"), fixed("Checkpoint")),
      element("tr", {}, ...this.columns.map((column) => this.sortable(column))),
    );
    if (focused) this.head.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  sortable(column) {
    const isSorted = this.sort.key === column.key;
    const direction = isSorted ? (this.sort.descending ? "descending" : "ascending") : "none";
    const arrow = { descending: " ↓", ascending: " ↑", none: "" }[direction];
    const label = `Sort by ${column.name}, ${column.split} items`;
    const sortBy = () => {
      this.sort = { key: column.key, descending: isSorted ? !this.sort.descending : column.maximized };
      this.show(this.view);
    };
    const button = element(
      "button",
      { type: "button", "aria-label": label, "data-key": column.key, click: sortBy },
      column.split + arrow,
    );
    return element("th", { scope: "col", class: "number", "aria-sort": direction }, button);
  }

  /** The trials in the chosen order; those without the value last. */
  ordered(trials) {
    const column = this.columns.find((one) => one.key === this.sort.key) ?? this.columns[0];
    const key = (trial) => measured(trial, this.view.objectives, column.name, column.split)?.value;
    const sign = this.sort.descending ? -1 : 1;
    return [...trials].sort((a, b) => {
      const [left, right] = [key(a), key(b)];
      if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
      return sign * (left - right) || a.number - b.number;
    });
  }

  row(trial) {
    const isRecommended = trial.id === this.view.recommended;
    const kind = KINDS[trial.candidate.kind];
    const isOnFront = this.view.front.some((one) => one.id === trial.id);
    const tags = [
      isRecommended ? "★ recommended" : null,
      trial.candidate.kind !== "candidate" && isOnFront ? `${kind}, on the front` : kind,
    ];
    const name = element(
      "th",
      { scope: "row", title: trial.id },
      trialName(trial),
      element("span", { class: "tags" }, tags.filter(Boolean).join(" · ")),
    );
    const cells = this.columns.map(({ name, split }) => valueCell(measured(trial, this.view.objectives, name, split)));
    const className = isRecommended ? "recommended" : trial.candidate.kind;
    return element(
      "tr",
      { class: className, "data-trial": trial.id },
      name,
      ...cells,
      weightsCell(trial),
      element("td", {}, this.panel(trial.id)),
    );
  }

  panel(trialId) {
    if (!this.panels.has(trialId)) this.panels.set(trialId, getPanel(trialId));
    return this.panels.get(trialId);
  }
}

function columns(objectives, splits) {
  const names = [MACRO, ...objectives.map(objectiveName)];
  return names.flatMap((name) =>
    splits.map((split) => ({ key: `${name}|${split}`, name, split, maximized: isMaximized(objectives, name) })),
  );
}

/** A value, its standard error below it. */
function valueCell(found) {
  const [value, error] = valueAndError(found?.value, found?.standard_error);
  return element("td", { class: "number" }, value, element("span", { class: "tags" }, error));
}

function weightsCell(trial) {
  const all = weights(trial).map(([name, value]) => `${name} ${number(value, 3)}`);
  const rest = all.length - SHOWN_WEIGHTS;
  if (rest <= 0) return element("td", { class: "weights" }, all.join(", "));
  const summary = element("summary", {}, `${all.slice(0, SHOWN_WEIGHTS).join(", ")} + ${rest}`);
  return element("td", { class: "weights" }, element("details", {}, summary, all.slice(SHOWN_WEIGHTS).join(", ")));
}
