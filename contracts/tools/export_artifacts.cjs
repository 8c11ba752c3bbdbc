#!/usr/bin/env node
// Writes ABI and creation code of every contract in src/ to artifacts/, or with --check compares and fails on a difference.
"use strict";

const fs = require("node:fs");
const path = require("node:path");

const root = path.resolve(__dirname, "..");
const check = process.argv.includes("--check");
let differing = 0;

for (const source of fs.readdirSync(path.join(root, "src")).filter((file) => file.endsWith(".sol")).sort()) {
  const name = path.basename(source, ".sol");
  const built = JSON.parse(fs.readFileSync(path.join(root, "out", source, `${name}.json`), "utf8"));
  if (built.bytecode.object.length < 200) continue; // a library that is inlined everywhere
  const text = JSON.stringify({ abi: built.abi, bytecode: built.bytecode.object }) + "\n";
  const target = path.join(root, "artifacts", `${name}.json`);
  if (!check) {
    fs.writeFileSync(target, text);
  } else if (!fs.existsSync(target) || fs.readFileSync(target, "utf8") !== text) {
    process.stderr.write(`artifacts/${name}.json is not what src/${source} compiles to\n`);
    differing += 1;
  }
}
if (differing) process.stderr.write("Run contracts/build and commit the result.\n");
process.exit(differing ? 1 : 0);
