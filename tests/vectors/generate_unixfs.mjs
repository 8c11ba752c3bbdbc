// Writes unixfs.json: root CIDs by the reference JavaScript importer, which ours must equal.
//
// Not part of CI. To make the vectors anew, in an empty directory (Node >= 20):
//   npm install --ignore-scripts ipfs-unixfs-importer@17.1.1 blockstore-core
//   cp <repository>/tests/vectors/generate_unixfs.mjs . && node generate_unixfs.mjs > <repository>/tests/vectors/unixfs.json
//
// Contents are not stored: the bytes of a file are SHA-256(seed || counter as 8 bytes, big-endian) for counter 0, 1, …,
// cut to its size. The seed of a file is its name (in a directory: its path) in UTF-8.
import { createHash } from 'node:crypto'
import { MemoryBlockstore } from 'blockstore-core'
import { importer } from 'ipfs-unixfs-importer'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { balanced } from 'ipfs-unixfs-importer/layout'

function content (seed, size) {
  const parts = []
  for (let counter = 0; counter * 32 < size; counter++) {
    const number = Buffer.alloc(8)
    number.writeBigUInt64BE(BigInt(counter))
    parts.push(createHash('sha256').update(seed, 'utf8').update(number).digest())
  }
  return Buffer.concat(parts).subarray(0, size)
}

async function root (sources, options) {
  let last
  for await (const entry of importer(sources, new MemoryBlockstore(), { profile: 'unixfs-v1-2025', ...options })) last = entry
  return last.cid.toString()
}

function layout (chunkBytes, width) {
  return chunkBytes === 1048576 && width === 1024
    ? {} // the profile itself
    : { chunker: fixedSize({ chunkSize: chunkBytes }), layout: balanced({ maxChildrenPerNode: width }) }
}

const files = []
for (const [size, chunkBytes, width] of [
  [0, 1048576, 1024], [1, 1048576, 1024], [1048575, 1048576, 1024], [1048576, 1048576, 1024], [1048577, 1048576, 1024],
  [3 * 1048576 + 5, 1048576, 1024],
  [174 * 16, 16, 174], [174 * 16 + 1, 16, 174], [175 * 16, 16, 174], [174 * 174 * 16, 16, 174], [174 * 174 * 16 + 1, 16, 174],
  [1024 * 16, 16, 1024], [1024 * 16 + 1, 16, 1024], [1025 * 16, 16, 1024], [2049 * 16 + 7, 16, 1024],
  [2, 1, 2], [3, 1, 2], [4, 1, 2], [5, 1, 2], [9, 1, 2], [64, 1, 3]
]) {
  const name = `file-${size}-${chunkBytes}-${width}`
  const cid = await root([{ path: name, content: content(name, size) }], { wrapWithDirectory: false, ...layout(chunkBytes, width) })
  files.push({ name, size, chunk_bytes: chunkBytes, width, cid })
}

const directories = []
for (const [name, chunkBytes, width, entries] of [
  ['flat', 1048576, 1024, [['a.txt', 5], ['b.txt', 0], ['Z', 9], ['model.safetensors', 1048577]]],
  ['nested', 16, 174, [['one/two/three/deep.bin', 3000], ['one/two/beside', 1], ['one/file', 17], ['top', 16]]],
  ['odd names', 16, 174, [
    ['with space', 3], ['.hidden', 4], ['ünïcødé', 5], ['模型/权重', 40], ['👩‍🔬', 6], ['e\u0301', 7], ['\u00e9', 8], ['%2e%2e', 9],
    ['a', 1], ['a.b', 1], ['a-b', 1], ['A', 1], ['a/b'.replace('/', '\\'), 2], ['x'.repeat(255), 1], ['\uffee', 1], ['\u{1f600}', 1]
  ]],
  ['many entries', 16, 174, Array.from({ length: 300 }, (_, index) => [`shard-${index}`, index])]
]) {
  const sources = entries.map(([path, size]) => ({ path: `root/${path}`, content: content(path, size) }))
  const cid = await root(sources, { wrapWithDirectory: false, ...layout(chunkBytes, width) })
  directories.push({ name, chunk_bytes: chunkBytes, width, entries: entries.map(([path, size]) => ({ path, size })), cid })
}

console.log(JSON.stringify({ source: 'ipfs-unixfs-importer 17.1.1, profile unixfs-v1-2025', files, directories }, null, 1))
