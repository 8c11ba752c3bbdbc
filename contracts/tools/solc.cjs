#!/usr/bin/env node
// The npm compiler (WebAssembly) behind the command line that forge expects of a native solc:
// `--version`, and `--standard-json` on standard input with `--base-path` and `--include-path`.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const solc = require("solc");

const argv = process.argv.slice(2);

if (argv.includes("--version")) {
  const version = solc.version().replace(/\.Emscripten\.clang$/, ".Linux.g++");
  process.stdout.write(`solc, the solidity compiler commandline interface\nVersion: ${version}\n`);
  process.exit(0);
}
if (!argv.includes("--standard-json")) {
  process.stderr.write("solc.cjs: only --version and --standard-json are supported\n");
  process.exit(1);
}

const valuesAfter = (flag) => argv.flatMap((word, index) => (word === flag ? [argv[index + 1]] : []));
const folders = [...valuesAfter("--base-path"), ...valuesAfter("--include-path"), "."];

function readImport(name) {
  for (const folder of folders) {
    const file = path.resolve(folder, name);
    if (fs.existsSync(file)) return { contents: fs.readFileSync(file, "utf8") };
  }
  return { error: `${name} not found below ${folders.join(", ")}` };
}

process.stdout.write(solc.compile(fs.readFileSync(0, "utf8"), { import: readImport }));
