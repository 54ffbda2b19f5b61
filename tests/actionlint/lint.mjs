// node lint.mjs LINTER FILE...: prints FILE:LINE:COLUMN: MESSAGE, exits 1 if anything was found.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [linter, ...files] = process.argv.slice(2);
const { createLinter } = await import(pathToFileURL(join(linter, "node.mjs")).href);
const lint = await createLinter();
let found = 0;
for (const file of files) {
  for (const { line, column, message } of lint(readFileSync(file, "utf8"), file)) {
    console.log(`${file}:${line}:${column}: ${message}`);
    found += 1;
  }
}
// The Go program inside never ends by itself.
process.exit(found ? 1 : 0);
