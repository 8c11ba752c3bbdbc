// An independent peer for discovery: js-libp2p's Kademlia DHT and its circuit relay client, over TCP, Noise and Yamux.
//
//   discovery.mjs ADDRESS DHT_PROTOCOL
//
// Dials the peer at ADDRESS and prints {id, address}. Then each line on stdin is one command, answered by one line:
//   {"provide": CID}     {provided: true}
//   {"find": CID}        {found: [peer id, …]}
//   {"reserve": ADDRESS} {reserved: [address through the relay, …]}
//   {"dial": ADDRESS}    {connected: peer id, limited: whether the connection is one of a relay}
// A command that fails is answered by {error: text}. Ends with stdin.
import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'

const [address, protocol] = process.argv.slice(2)
const say = message => { console.log(JSON.stringify(message)) }
const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds))

const libp2p = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp(), circuitRelayTransport()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false },
  services: {
    identify: identify({ runOnLimitedConnection: true }),
    ping: ping(),
    dht: kadDHT({ protocol, clientMode: false, peerInfoMapper: passthroughMapper })
  }
})
await libp2p.dial(multiaddr(address))

const commands = {
  async provide (text) {
    await libp2p.contentRouting.provide(CID.parse(text))
    return { provided: true }
  },
  async find (text) {
    const found = new Set()
    for await (const provider of libp2p.contentRouting.findProviders(CID.parse(text), { signal: AbortSignal.timeout(10_000) })) {
      found.add(provider.id.toString())
      break
    }
    return { found: [...found] }
  },
  async reserve (relay) {
    await libp2p.components.transportManager.listen([multiaddr(`${relay}/p2p-circuit`)])
    const through = () => libp2p.getMultiaddrs().map(String).filter(each => each.includes('/p2p-circuit'))
    while (through().length === 0) {
      await pause(50)
    }
    return { reserved: through() }
  },
  async dial (target) {
    const connection = await libp2p.dial(multiaddr(target), { signal: AbortSignal.timeout(20_000) })
    return { connected: connection.remotePeer.toString(), limited: connection.limits != null }
  }
}

say({ id: libp2p.peerId.toString(), address: libp2p.getMultiaddrs()[0].toString() })
createInterface({ input: process.stdin })
  .on('line', async line => {
    const [[name, argument]] = Object.entries(JSON.parse(line))
    try {
      say(await commands[name](argument))
    } catch (error) {
      say({ error: String(error) })
    }
  })
  .on('close', () => process.exit(0))
