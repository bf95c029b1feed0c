// Numbers, durations, sizes and times as people read them.

const MISSING = "–";
const UNITS = [
  ["year", 31557600],
  ["month", 2629800],
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
  ["second", 1],
];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

/** Return a number with `digits` significant digits, or a dash for null. */
export function number(value, digits = 4) {
  if (value === null || value === undefined) return MISSING;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) return value.toExponential(digits - 1);
  return size >= 1 ? String(Number(value.toPrecision(digits))) : value.toFixed(digits);
}

/** Return ["0.812", "± 0.013"]: a measured value and its error with as many decimals, "" where there is none. */
export function valueAndError(value, standardError) {
  if (value === null || value === undefined) return [MISSING, ""];
  const decimals = Math.abs(value) < 10 ? 3 : Math.abs(value) < 1000 ? 2 : 0;
  const isKnown = standardError !== null && standardError !== undefined;
  return [value.toFixed(decimals), isKnown ? `± ${standardError.toFixed(decimals)}` : ""];
}

/** Return both on one line. */
export const withError = (value, standardError) => valueAndError(value, standardError).join(" ").trim();

export const percent = (share) => (share === null || share === undefined ? MISSING : `${Math.round(100 * share)}%`);

/** Return seconds as "2 h 5 min", "3 min 20 s" or "12 s". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return MISSING;
  const whole = Math.max(0, Math.round(seconds));
  const [days, hours, minutes] = [
    Math.floor(whole / 86400),
    Math.floor(whole / 3600) % 24,
    Math.floor(whole / 60) % 60,
  ];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

/** Return bytes in decimal units, as disks and downloads are counted. */
export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(bytes) / 3));
  return `${power ? (bytes / 1000 ** power).toFixed(1) : bytes} ${units[power]}`;
}

/** Return a count with its noun: "1 trial", "12 trials". */
export const count = (amount, noun) => `${amount.toLocaleString("en")} ${noun}${amount === 1 ? "" : "s"}`;

/** Return a large count in short: 7.2B, 135M. */
export const short = (amount) =>
  new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(amount);

/** Return "5 minutes ago" for an ISO time. */
export function ago(iso, now = Date.now()) {
  const seconds = (new Date(iso).getTime() - now) / 1000;
  const [unit, length] = UNITS.find(([, length]) => Math.abs(seconds) >= length) ?? ["second", 1];
  return relative.format(Math.round(seconds / length), unit);
}

/** Return a <time> that shows the relative time and tells the exact one in its title. */
export function timeElement(iso) {
  const node = document.createElement("time");
  node.dateTime = iso;
  node.title = new Date(iso).toLocaleString();
  node.textContent = ago(iso);
  return node;
}
