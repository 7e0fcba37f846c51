// Numbers as people read them.

const UNITS = ["B", "kB", "MB", "GB"];

export function bytes(count) {
  let unit = 0;
  let value = count;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

export function share(value) {
  if (value === null) return "–";
  return `${(value * 100).toFixed(0).replace("-", "−")} %`;
}

export function milliseconds(value) {
  return value === null ? "–" : `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;
}

export function integer(value) {
  return value.toLocaleString("en");
}
