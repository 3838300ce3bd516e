// Stores, searches and deletes from Node: `npm install`, then `node search.js [HOST:PORT] [PROTO_FOLDER]`.
'use strict';

const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const server = process.argv[2] ?? 'localhost:50051';
const protos = process.argv[3] ?? path.join(__dirname, '..', '..', 'proto');

// Read at run time, so there is no code to generate. `keepCase` leaves the fields their names in the API; `longs` as
// numbers are exact up to 2^53; `oneofs` tell which field of several is set.
const definition = protoLoader.loadSync(['search', 'index'].map((name) => `clip_search/v1/${name}.proto`), {
  includeDirs: [protos],
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
});
const api = grpc.loadPackageDefinition(definition).clip_search.v1;

// For TLS: grpc.credentials.createSsl(fs.readFileSync('ca.pem')).
const credentials = grpc.credentials.createInsecure();
const options = {
  'grpc.max_send_message_length': 64 * 1024 * 1024,
  'grpc.max_receive_message_length': 64 * 1024 * 1024,
  // What may be sent twice is sent again by gRPC; it obeys the time that a full server names.
  'grpc.service_config': JSON.stringify({
    methodConfig: [
      {
        name: [
          { service: 'clip_search.v1.SearchService' },
          { service: 'clip_search.v1.IndexService', method: 'GetItems' },
          { service: 'clip_search.v1.IndexService', method: 'Delete' },
        ],
        retryPolicy: {
          maxAttempts: 4,
          initialBackoff: '0.1s',
          maxBackoff: '2s',
          backoffMultiplier: 3,
          retryableStatusCodes: ['UNAVAILABLE', 'RESOURCE_EXHAUSTED'],
        },
      },
    ],
  }),
};
const search = new api.SearchService(server, credentials, options);
const index = new api.IndexService(server, credentials, options);

// With a key: metadata.set('authorization', `Bearer ${key}`), over TLS alone.
const metadata = new grpc.Metadata();

/** Calls a method that answers once; every call has a deadline. */
function call(client, method, request, seconds = 10) {
  return new Promise((resolve, reject) => {
    client[method](request, metadata, { deadline: Date.now() + 1000 * seconds }, (error, response) =>
      error ? reject(error) : resolve(response),
    );
  });
}

/** Stores items over one stream; resolves with their outcomes in the order of the items. */
function ingest(items) {
  return new Promise((resolve, reject) => {
    const outcomes = [];
    const stream = index.Ingest(metadata);
    stream.on('data', ({ result }) => {
      outcomes[result.index] = result;
    });
    stream.on('error', reject); // items without an outcome may or may not be stored: sending them again is safe
    stream.on('end', () => resolve(outcomes));
    (async () => {
      for (const [position, item] of items.entries()) {
        if (!stream.write({ index: position, item })) {
          await new Promise((drained) => stream.once('drain', drained)); // the server reads no faster than it stores
        }
      }
      stream.end();
    })();
  });
}

async function main() {
  const kind = (value) => ({ kind: { string_value: value } });
  const items = [
    { id: 'example/apple', content: { text: 'a red apple' }, attributes: kind('fruit') },
    { id: 'example/pear', content: { text: 'a green pear' }, attributes: kind('fruit') },
    { id: 'example/whale', content: { text: 'a whale in the sea' }, attributes: kind('animal') },
  ];
  for (const outcome of await ingest(items)) {
    console.log(outcome.stored ? `stored ${outcome.id}` : `${outcome.id}: ${outcome.error.message}`);
  }

  const { hits } = await call(search, 'Search', {
    parts: [{ content: { text: 'an animal that swims' } }],
    limit: 1,
    filter: { equals: { attribute: 'kind', value: { string_value: 'animal' } } },
  });
  for (const hit of hits) {
    console.log(`found ${hit.id} ${hit.attributes.kind.string_value}`);
  }

  try {
    await call(search, 'Search', { parts: [{ content: { text: '' } }] });
  } catch (error) {
    // `error.details` says what is wrong; the id is the one under which the server's log has the call.
    console.log(`refused ${grpc.status[error.code]}`);
    console.error(`${error.details} (request ${error.metadata.get('x-request-id')[0]})`);
  }

  const { deleted } = await call(index, 'Delete', { ids: { ids: items.map((item) => item.id) } });
  console.log(`deleted ${deleted}`);
}

main()
  .catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  })
  .finally(() => {
    search.close();
    index.close();
  });
