// Hypervolume against evaluations: how the search front grew.

import { draw, palette } from "./plot.js";
import { number } from "./format.js";

/** Draw the hypervolume after each told trial and return a sentence about it. */
export async function drawHypervolume(node, told) {
  const points = told.filter((trial) => trial.hypervolume !== null);
  const trace = {
    mode: points.length > 1 ? "lines" : "markers",
    line: { shape: "hv", color: palette().front, width: 2 },
    x: points.map((trial) => trial.told + 1),
    y: points.map((trial) => trial.hypervolume),
    hovertemplate: "after %{x} results: %{y:.5g}<extra></extra>",
  };
  await draw(node, [trace], {
    xTitle: "results, baselines included",
    yTitle: "hypervolume (search)",
    showlegend: false,
  });
  if (!points.length) return "Starts once all baselines are scored: they fix the reference point.";
  const now = number(points.at(-1).hypervolume);
  return `Volume between the front and the reference point that the baselines fixed; now ${now}.`;
}
