/** What this build calls itself. */

/** Baked in by scripts/build.ts; absent when the sources are run as they are. */
declare const ROTA_VERSION: string | undefined;
declare const ROTA_COMMIT: string | undefined;

/** The version: of a release "1.2.3", of the sources "dev". */
export const VERSION: string = typeof ROTA_VERSION === "string" ? ROTA_VERSION : "dev";

/** The commit it was built from, short; "" when it is not known. */
export const COMMIT: string = typeof ROTA_COMMIT === "string" ? ROTA_COMMIT : "";
