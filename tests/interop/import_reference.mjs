// Prints the root CIDs that the reference UnixFS importer gives for files and directories on disk.
//
// Reads one case per line of standard input, {"path", "chunk_bytes", "width"}, and answers each with {"cid"} on a line
// of its own. Names are taken as UTF-8; a directory without entries is imported as such.
import { readdir, stat } from 'node:fs/promises'
import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { join } from 'node:path'
import { BlackHoleBlockstore } from 'blockstore-core/black-hole'
import { importer } from 'ipfs-unixfs-importer'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { balanced } from 'ipfs-unixfs-importer/layout'

async function * candidates (path, name) {
  if ((await stat(path)).isFile()) {
    yield { path: name, content: createReadStream(path, { highWaterMark: 1048576 }) }
    return
  }
  const entries = (await readdir(path)).sort()
  if (entries.length === 0) yield { path: name }
  for (const entry of entries) yield * candidates(join(path, entry), `${name}/${entry}`)
}

async function rootOf ({ path, chunk_bytes: chunkBytes, width }) {
  const options = {
    profile: 'unixfs-v1-2025',
    wrapWithDirectory: false,
    chunker: fixedSize({ chunkSize: chunkBytes }),
    layout: balanced({ maxChildrenPerNode: width })
  }
  let last
  for await (const entry of importer(candidates(path, 'root'), new BlackHoleBlockstore(), options)) last = entry
  return last.cid.toString()
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify({ cid: await rootOf(JSON.parse(line)) }))
}
