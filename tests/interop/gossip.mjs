// An independent GossipSub peer: js-libp2p over TCP, Noise and Yamux.
//
//   gossip.mjs ADDRESS TOPIC COUNT
//
// Dials the peer at ADDRESS, joins TOPIC and prints {joined: true} when the peer has joined too; publishes COUNT
// messages ("theirs 0", …) when a line comes on stdin; prints {received: text} for each message; ends with stdin.
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
    say({ received: Buffer.from(event.detail.data).toString() })
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
      await pubsub.publish(topic, Buffer.from(`theirs ${number}`))
    }
  })
  .on('close', () => process.exit(0))
