// Which objectives the scatter plot shows.

import { byId, element } from "./element.js";
import { MACRO, objectiveName, shortName } from "./measurements.js";

const axes = () => [byId("axis-x"), byId("axis-y")];

/** Fill the axis pickers, once. At first: the first two objectives, or the only one beside the macro-average. */
export function fillPickers(objectives, onChange) {
  if (byId("axis-x").options.length) return;
  const names = [...objectives.map(objectiveName), MACRO];
  for (const [index, axis] of axes().entries()) {
    axis.replaceChildren(
      ...names.map((name) =>
        element("option", { value: name, selected: name === names[index], title: name }, shortName(objectives, name)),
      ),
    );
    axis.addEventListener("change", onChange);
  }
  byId("split").addEventListener("change", onChange);
}

/** What is picked now, as {x, y, split}. */
export function picked() {
  const [x, y] = axes().map((axis) => axis.value);
  return { x, y, split: byId("split").value };
}
