/** What a measurement comes to, how it is shown to a person, and the middle and the edges of many samples. */

/** A number that was promised. `most`: at most this. */
export interface Aim {
  readonly what: string;
  readonly value: number;
  readonly unit: string;
  readonly most: number;
}

export interface Measurement {
  readonly name: string;
  readonly title: string;
  /** Every row has a label and one figure for each column. */
  readonly columns: readonly string[];
  readonly rows: readonly { readonly label: string; readonly figures: readonly number[] }[];
  readonly aims: readonly Aim[];
  /** What the figures do and do not mean. */
  readonly notes: readonly string[];
}

/** What every measurement gets from the command line. */
export interface Options {
  /** How many times each thing is tried; every measurement has a default of its own. */
  readonly rounds?: number;
  /** How long an idle daemon is watched. */
  readonly seconds: number;
  /** For what takes long: tells how far it is. */
  readonly say: (text: string) => void;
}

/** The value below which this share of the samples lies. NaN without samples. */
export function quantile(samples: readonly number[], share: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

export function median(samples: readonly number[]): number {
  return quantile(samples, 0.5);
}

/** A number with the digits that matter. */
function shown(value: number): string {
  if (Number.isInteger(value)) return String(value);
  return value.toFixed(Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 0.1 ? 2 : 3);
}

/** The measurement as a table, its aims and its notes, for a terminal. */
export function render({ title, columns, rows, aims, notes }: Measurement): string {
  const cells = [["", ...columns], ...rows.map(({ label, figures }) => [label, ...figures.map(shown)])];
  const widths = ["", ...columns].map((_, i) => Math.max(...cells.map((line) => line[i]?.length ?? 0)));
  const table = cells.map((line) =>
    line.map((cell, i) => (i === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart((widths[i] ?? 0) + 3))).join(""),
  );
  const judged = aims.map(({ what, value, unit, most }) => {
    const met = value <= most;
    return `${met ? "met   " : "MISSED"}  ${what}: ${shown(value)} ${unit}, aim ≤ ${shown(most)}`;
  });
  const parts = [table, judged, notes.map((note) => `· ${note}`)].filter((part) => part.length > 0);
  return `${title}\n\n${parts.map((part) => part.map((line) => `  ${line}`.trimEnd()).join("\n")).join("\n\n")}\n`;
}
