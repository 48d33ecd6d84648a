// Makes the calls that stand on the standard input with the real SDK, and prints what came of each, as JSON.
import OpenAI from 'openai';
import { text } from 'node:stream/consumers';

const { apiKey, calls } = JSON.parse(await text(process.stdin));

async function outcome({ baseURL, call, params, headers }) {
  const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60_000 });
  const path = call.split('.');
  const method = path.pop();
  const resource = path.reduce((parent, name) => parent[name], client);
  try {
    const answer = await resource[method](params, { headers });
    let events = 0;
    if (params.stream) {
      for await (const _ of answer) events += 1;
    }
    return { error: null, events };
  } catch (error) {
    const { status, code, param, type, message, requestID } = error;
    return { error: error.constructor.name, status, code, param, type, message, requestID };
  }
}

const outcomes = [];
for (const call of calls) outcomes.push(await outcome(call));
console.log(JSON.stringify(outcomes));
