// An independent GossipSub peer: js-libp2p over TCP, Noise and Yamux.
//
//   gossip.mjs ADDRESS TOPIC COUNT
//
// Dials the peer at ADDRESS, joins TOPIC and prints {joined: true} when the peer has joined too; publishes COUNT
// messages ("theirs 0", …) when a line comes on stdin; prints {received: text} for each item; ends with stdin.
// What a message is made of is Quern's own: one byte for the format, then items with their length in four bytes.
import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const [address, topic, count] = process.argv.slice(2)
const say = message => { console.log(JSON.stringify(message)) }

const FORMAT = 1

function encodeBatch (text) {
  const item = Buffer.from(text)
  const head = Buffer.from([FORMAT, 0, 0, 0, 0])
  head.writeUInt32BE(item.length, 1)
  return Buffer.concat([head, item])
}

function * itemsOf (data) {
  for (let at = 1; at < data.length;) {
    const end = at + 4 + data.readUInt32BE(at)
    yield data.subarray(at + 4, end).toString()
    at = end
  }
}

const libp2p = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), pubsub: gossipsub({ allowPublishToZeroTopicPeers: true }) }
})
const pubsub = libp2p.services.pubsub
pubsub.addEventListener('message', event => {
  if (event.detail.topic === topic) {
    for (const item of itemsOf(Buffer.from(event.detail.data))) {
      say({ received: item })
    }
  }
})
pubsub.subscribe(topic)
await libp2p.dial(multiaddr(address))
while (pubsub.getMeshPeers(topic).length === 0) {
  await new Promise(resolve => setTimeout(resolve, 50))
}
say({ joined: true })
createInterface({ input: process.stdin })
  .on('line', async () => {
    for (let number = 0; number < Number(count); number++) {
      await pubsub.publish(topic, encodeBatch(`theirs ${number}`))
    }
  })
  .on('close', () => process.exit(0))
