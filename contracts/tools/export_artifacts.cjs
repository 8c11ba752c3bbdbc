#!/usr/bin/env node
// Writes what Python needs of every contract in src/ to artifacts/: ABI, creation code, documentation, and the structs
// and enums that the ABI names but does not describe. With --check compares instead and fails on a difference.
"use strict";

const fs = require("node:fs");
const path = require("node:path");

const root = path.resolve(__dirname, "..");
const artifacts = path.join(root, "artifacts");
const check = process.argv.includes("--check");
let differing = 0;

const read = (file) => JSON.parse(fs.readFileSync(file, "utf8"));
const filesBelow = (folder, ending) =>
  fs
    .readdirSync(folder, { recursive: true })
    .map(String)
    .filter((file) => file.endsWith(ending))
    .sort();

// Members and documentation of every struct and enum, by canonical name such as `struct EpochManager.Parameters`.
function collectTypes() {
  const types = new Map();
  const seen = new Set();
  const visit = (node) => {
    const kind = { EnumDefinition: "enum", StructDefinition: "struct" }[node.nodeType];
    if (kind) {
      const members = kind === "enum" ? node.members.map((member) => member.name) : undefined;
      const name = `${kind} ${node.canonicalName}`;
      const known = types.get(name);
      // The ABI tells two enums of one name by nothing: giving one the other's members would be a silent lie.
      const ambiguous = known !== undefined && (known.ambiguous || `${known.members}` !== `${members}`);
      types.set(name, { members, notice: node.documentation?.text, ambiguous: ambiguous || undefined });
    }
    for (const child of node.nodes ?? []) visit(child);
  };
  for (const file of filesBelow(path.join(root, "out"), ".json")) {
    const { ast } = read(path.join(root, "out", file));
    // A test may give a type of its own the same name: only what contracts are made of counts.
    if (!ast || ast.absolutePath.startsWith("test/") || seen.has(ast.absolutePath)) continue;
    seen.add(ast.absolutePath); // a file with several contracts has several outputs
    visit(ast);
  }
  return types;
}

function namedTypes(abi, types) {
  const used = {};
  const visit = (argument) => {
    const name = (argument.internalType ?? "").replace(/\[.*$/, "");
    if (types.get(name)?.ambiguous) {
      process.stderr.write(`Two files declare ${name}, with different members: rename one.\n`);
      process.exit(1);
    }
    if (types.has(name)) used[name] = types.get(name);
    for (const component of argument.components ?? []) visit(component);
  };
  for (const entry of abi) for (const argument of [...(entry.inputs ?? []), ...(entry.outputs ?? [])]) visit(argument);
  return Object.fromEntries(Object.entries(used).sort(([a], [b]) => (a < b ? -1 : 1)));
}

const types = collectTypes();
const written = new Set();
for (const source of filesBelow(path.join(root, "src"), ".sol")) {
  const name = path.basename(source, ".sol");
  const built = read(path.join(root, "out", `${name}.sol`, `${name}.json`));
  if (built.bytecode.object.length < 200) continue; // an interface, or a library that is inlined everywhere
  const { userdoc, devdoc } = built.metadata.output;
  const record = {
    abi: built.abi,
    bytecode: built.bytecode.object,
    types: namedTypes(built.abi, types),
    userdoc,
    devdoc,
  };
  const text = JSON.stringify(record) + "\n";
  const target = path.join(artifacts, `${name}.json`);
  written.add(`${name}.json`);
  if (!check) {
    fs.writeFileSync(target, text);
  } else if (!fs.existsSync(target) || fs.readFileSync(target, "utf8") !== text) {
    process.stderr.write(`artifacts/${name}.json is not what src/${source} compiles to\n`);
    differing += 1;
  }
}
for (const file of filesBelow(artifacts, ".json").filter((file) => !written.has(file))) {
  if (!check) {
    fs.rmSync(path.join(artifacts, file));
  } else {
    process.stderr.write(`artifacts/${file} belongs to no contract in src/\n`);
    differing += 1;
  }
}
if (differing) process.stderr.write("Run contracts/build and commit the result.\n");
process.exit(differing ? 1 : 0);
