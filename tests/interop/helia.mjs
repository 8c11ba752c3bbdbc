// An independent IPFS peer: Helia over TCP, Noise and Yamux, with nothing of the public network.
//
//   helia.mjs serve DIRECTORY                          import it, print {address, root}, serve until stdin ends
//   helia.mjs fetch bitswap ADDRESS ROOT DESTINATION   fetch a file or directory from the peer at ADDRESS
//   helia.mjs fetch gateway URL ROOT DESTINATION       the same from a trustless HTTP gateway
//
// `fetch` prints {bytes, seconds}: file bytes, and the time from the first want to the last byte.
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { createReadStream } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { bitswap, trustlessGateway } from '@helia/block-brokers'
import { unixfs } from '@helia/unixfs'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { uriToMultiaddr } from '@multiformats/uri-to-multiaddr'
import { MemoryBlockstore } from 'blockstore-core'
import { createHeliaLight } from 'helia'
import { exporter } from 'ipfs-unixfs-exporter'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'

const BLOCKS_AT_ONCE = 16

async function startLibp2p () {
  return createLibp2p({
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    services: { identify: identify() }
  })
}

async function startHelia (libp2p, blockBrokers, routers = []) {
  const helia = createHeliaLight({ blockstore: new MemoryBlockstore(), blockBrokers, routers, components: { libp2p } })
  await helia.start()
  return helia
}

async function * filesBelow (directory, root = directory) {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name)
    if (entry.isDirectory()) {
      yield * filesBelow(path, root)
    } else {
      yield { path: relative(root, path), content: createReadStream(path) }
    }
  }
}

async function serve (directory) {
  const libp2p = await startLibp2p()
  const helia = await startHelia(libp2p, [bitswap()])
  let root
  for await (const entry of unixfs(helia).addAll(filesBelow(directory), { wrapWithDirectory: true })) {
    root = entry.cid
  }
  console.log(JSON.stringify({ address: libp2p.getMultiaddrs()[0].toString(), root: root.toString() }))
  process.stdin.resume()
  await new Promise(resolve => process.stdin.on('end', resolve))
}

function gatewayRouter (url) {
  const provider = { id: CID.parse('bafkqaaa'), multiaddrs: [uriToMultiaddr(url)], protocols: ['transport-ipfs-gateway-http'], routing: 'the-one' }
  return { name: 'the-one', async * findProviders () { yield provider } }
}

async function * filesOf (cid, blockstore, path = '') {
  const node = await exporter(cid.toString(), blockstore)
  if (node.type !== 'directory') {
    yield { path, content: node.content({ blockReadConcurrency: BLOCKS_AT_ONCE }) }
    return
  }
  for await (const entry of node.entries()) {
    yield * filesOf(entry.cid, blockstore, join(path, entry.name))
  }
}

async function fetch (kind, address, root, destination) {
  let helia
  if (kind === 'bitswap') {
    const libp2p = await startLibp2p()
    helia = await startHelia(libp2p, [bitswap()])
    await libp2p.dial(multiaddr(address))
  } else {
    helia = await startHelia(undefined, [trustlessGateway({ allowInsecure: true, allowLocal: true })], [gatewayRouter(address)])
  }
  const started = performance.now()
  const files = new Map()
  let bytes = 0
  for await (const { path, content } of filesOf(root, helia.blockstore)) {
    const pieces = []
    for await (const piece of content) {
      pieces.push(piece)
      bytes += piece.length
    }
    files.set(path, pieces)
  }
  const seconds = (performance.now() - started) / 1000
  for (const [path, pieces] of files) {
    const target = path === '' ? destination : join(destination, path)
    await mkdir(dirname(target), { recursive: true })
    await writeFile(target, Buffer.concat(pieces))
  }
  console.log(JSON.stringify({ bytes, seconds }))
}

const [command, ...rest] = process.argv.slice(2)
await (command === 'serve' ? serve(...rest) : fetch(...rest))
process.exit(0)
