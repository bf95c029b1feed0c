// Reading trials: values by objective and split, the macro-average, names.

export const MACRO = "macro-average";

/** Name of an objective, as measurements refer to it (campaigns.objectives.Objective.name). */
export const objectiveName = (objective) =>
  `${objective.task}/${objective.metric}` + (objective.filter === "none" ? "" : `@${objective.filter}`);

/** Return an objective's task alone where that tells it from the others, else its full name. */
export function shortName(objectives, name) {
  const task = objectives.find((objective) => objectiveName(objective) === name)?.task;
  return objectives.filter((objective) => objective.task === task).length === 1 ? task : name;
}

/**
 * Return {value, standard_error} of an objective, or of the macro-average, on a split; null when not measured.
 *
 * The value of a trial that a race stopped is the estimate for all items, whose error is not known.
 */
export function measured(trial, objectives, name, split) {
  if (name === MACRO) return macroAverage(trial, objectives, split);
  const found = trial.measurements.find((one) => one.objective === name && one.split === split) ?? null;
  return found?.estimate === undefined ? found : { ...found, value: found.estimate, standard_error: null };
}

/** The weighted mean, higher is better, errors taken as independent (campaigns.objectives.macro_average). */
export function macroAverage(trial, objectives, split) {
  let [sum, variance, total] = [0, 0, 0];
  for (const objective of objectives) {
    const found = measured(trial, [], objectiveName(objective), split);
    if (!found) return null;
    sum += objective.weight * (objective.direction === "minimize" ? -found.value : found.value);
    variance += objective.weight === 0 ? 0 : (objective.weight * (found.standard_error ?? NaN)) ** 2;
    total += objective.weight;
  }
  const error = Math.sqrt(variance) / total;
  return { value: sum / total, standard_error: Number.isNaN(error) ? null : error };
}

/** Whether larger values of the axis or column are better. */
export function isMaximized(objectives, name) {
  return objectives.find((objective) => objectiveName(objective) === name)?.direction !== "minimize";
}

/** Return a trial's name for people: a baseline's own name ("math", "uniform soup"), or "trial 12". */
export function trialName(trial) {
  return trial.candidate.label ?? `trial ${trial.number}`;
}

/** Return [short name, value] of a trial's parameters that are not 0, the largest first. */
export function weights(trial) {
  return Object.entries(trial.candidate.parameters)
    .filter(([, value]) => value !== 0)
    .map(([name, value]) => [name.replace(/^weight\./, ""), value])
    .sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
}
