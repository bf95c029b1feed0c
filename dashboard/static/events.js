// Server-sent events over fetch: EventSource cannot send the token.

import { request } from "./api.js";
import { setText } from "./element.js";

const FIRST_RETRY_MS = 1000;
const LAST_RETRY_MS = 15000;

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/**
 * Follow the events of `path` until they are over, resuming behind the last one after a break.
 *
 * `onEvent` gets {id, kind, data}; `onConnection` gets true when the stream is open, false when it broke and null when
 * it is over. The server ends the stream of a campaign that has ended: `isOver` tells that from a break.
 */
export async function follow(path, { onEvent, onConnection, isOver }) {
  let lastId = null;
  let retryMs = FIRST_RETRY_MS;
  for (;;) {
    try {
      const headers = { Accept: "text/event-stream", ...(lastId === null ? {} : { "Last-Event-ID": lastId }) };
      const response = await request(path, { headers, cache: "no-store" });
      onConnection(true);
      retryMs = FIRST_RETRY_MS;
      for await (const event of parse(response.body)) {
        lastId = event.id ?? lastId;
        onEvent(event);
      }
      if (await isOver()) return onConnection(null);
    } catch (error) {
      console.debug("event stream:", error.message);
    }
    onConnection(false);
    await pause(retryMs);
    retryMs = Math.min(2 * retryMs, LAST_RETRY_MS);
  }
}

/** Yield the events of a byte stream: blocks of "field: value" lines, ended by an empty line. */
async function* parse(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer = (buffer + value).replaceAll("\r\n", "\n");
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const event = parseBlock(block);
      if (event) yield event;
    }
  }
}

/** Return the event of a block, or null for a comment (which only keeps the connection alive). */
function parseBlock(block) {
  const fields = { id: null, event: "message", data: [] };
  for (const line of block.split("\n")) {
    const [, name, value] = line.match(/^([^:]*):? ?(.*)$/);
    if (name === "data") fields.data.push(value);
    else if (name in fields) fields[name] = value;
  }
  return fields.data.length ? { id: fields.id, kind: fields.event, data: JSON.parse(fields.data.join("\n")) } : null;
}

/** Return a function that runs `task` soon, at most once per `intervalMs`, never twice at a time. */
export function throttled(task, intervalMs) {
  let last = -Infinity;
  let waiting = false;
  let running = false;
  return async function run() {
    if (waiting) return;
    waiting = true;
    await pause(Math.max(0, last + intervalMs - performance.now()));
    while (running) await pause(50);
    waiting = false;
    running = true;
    last = performance.now();
    await task().finally(() => (running = false));
  };
}

/** Return `onConnection` for `follow`: it says in `node` whether the page is live. */
export function connectionSign(node) {
  return (isConnected) => {
    setText(node, { true: "live", false: "disconnected, retrying", null: "" }[isConnected]);
    node.classList.toggle("broken", isConnected === false);
  };
}
