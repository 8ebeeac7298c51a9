// Runs inside a worker process: imports a build's handler and answers requests, one JSON line each way.
//
// The same protocol as bootstrap.py. Knows Lambda's Node.js runtime: context, callback, error payloads, lines of the
// console. Timers cost virtual time: while nothing but a timer is waited for, the next one fires at once.

import { existsSync, writeSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { extname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { format, promisify } from "node:util";
import timers from "node:timers";
import timersPromises from "node:timers/promises";

const RealDate = Date;
const realTimeout = setTimeout;
const realNow = RealDate.now;
const EXTENSIONS = [".mjs", ".js", ".cjs"];

function send(message) {
  const line = Buffer.from(JSON.stringify(message) + "\n");
  let written = 0;
  while (written < line.length) {
    try {
      written += writeSync(1, line, written);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
  }
}

// Virtual time

const moment = { at: 0, timeout_s: Infinity, slept_ms: 0, over: null };

function virtualNow() {
  return Math.round(moment.at * 1000 + moment.slept_ms);
}

globalThis.Date = class Date extends RealDate {
  constructor(...given) {
    super(...(given.length ? given : [virtualNow()]));
  }
  static now() {
    return virtualNow();
  }
};

const waiting = new Set();
let polling = false;

class VirtualTimer {
  constructor(call, delay, given, repeats) {
    this.call = call;
    this.delay = Math.max(1, Number(delay) || 1);
    this.given = given;
    this.repeats = repeats;
    this.refresh();
  }
  refresh() {
    this.due = virtualNow() + this.delay;
    this.began = realNow();
    waiting.add(this);
    poll();
    return this;
  }
  close() {
    waiting.delete(this);
    return this;
  }
  ref() {
    return this;
  }
  unref() {
    return this;
  }
  hasRef() {
    return true;
  }
  [Symbol.toPrimitive]() {
    return 0;
  }
}

function fire(timer) {
  waiting.delete(timer);
  if (timer.due > virtualNow()) {
    const left_ms = moment.timeout_s * 1000 - moment.slept_ms;
    const passes = timer.due - virtualNow();
    moment.slept_ms += Math.min(passes, left_ms);
    if (passes >= left_ms) {
      moment.over?.();
      return;
    }
  }
  timer.call(...timer.given);
  if (timer.repeats && !timer.closed) timer.refresh();
}

function isBusy() {
  // What is waited for beside timers and this process's own pipe is real: a timer then waits, too.
  return process.getActiveResourcesInfo().some((kind) => !["PipeWrap", "Timeout", "Immediate"].includes(kind));
}

function poll() {
  if (polling || waiting.size === 0) return;
  polling = true;
  // Only then: what the handler does after it has set a timer may be such a call.
  setImmediate(look);
}

function look() {
  const next = [...waiting].sort((one, other) => one.due - other.due)[0];
  if (next && isBusy() && realNow() - next.began < next.delay) {
    realTimeout(look, 1);
    return;
  }
  polling = false;
  if (next) fire(next);
  poll();
}

function whenIdle(call) {
  if (waiting.size === 0 && !isBusy()) setImmediate(() => (waiting.size === 0 && !isBusy() ? call() : whenIdle(call)));
  else realTimeout(() => whenIdle(call), 1);
}

function clear(timer) {
  if (timer instanceof VirtualTimer) {
    timer.closed = true;
    timer.close();
  }
}

const sleep = (delay, value) => new Promise((resolve) => new VirtualTimer(resolve, delay, [value], false));
globalThis.setTimeout = (call, delay, ...given) => new VirtualTimer(call, delay, given, false);
globalThis.setInterval = (call, delay, ...given) => new VirtualTimer(call, delay, given, true);
globalThis.clearTimeout = globalThis.clearInterval = clear;
globalThis.setTimeout[promisify.custom] = sleep;
for (const name of ["setTimeout", "setInterval", "clearTimeout", "clearInterval"]) timers[name] = globalThis[name];
timersPromises.setTimeout = sleep;
syncBuiltinESMExports();

// Lines

let requestId = "undefined";
let begun = "";

function write(text) {
  const lines = (begun + text).split("\n");
  begun = lines.pop();
  for (const line of lines) send({ line });
  return true;
}

for (const stream of [process.stdout, process.stderr]) {
  stream.write = (text, encoding, done) => {
    write(typeof text === "string" ? text : Buffer.from(text).toString());
    const call = typeof encoding === "function" ? encoding : done;
    if (call) setImmediate(call);
    return true;
  };
}

const LEVELS = { log: "INFO", info: "INFO", debug: "DEBUG", trace: "TRACE", warn: "WARN", error: "ERROR" };
for (const [method, level] of Object.entries(LEVELS)) {
  console[method] = (...given) => {
    const timestamp = new Date().toISOString();
    const text = format(...given);
    if (process.env.AWS_LAMBDA_LOG_FORMAT === "JSON") {
      write(JSON.stringify({ timestamp, level, requestId, message: text }) + "\n");
    } else {
      // A line of several is one event of the log.
      write([timestamp, requestId, level, text.replaceAll("\n", "\r")].join("\t") + "\n");
    }
  };
}

// Errors

function payload(error, type) {
  const whole = error instanceof Error ? error : { name: typeof error, message: String(error), stack: "" };
  const root = process.env.LAMBDA_TASK_ROOT;
  const stack = String(whole.stack ?? "").split("\n").map((line) => line.replaceAll(root, "/var/task"));
  return {
    errorType: type ?? whole.name,
    errorMessage: String(whole.message).replaceAll(root, "/var/task"),
    trace: stack.filter((line) => !line.includes("bootstrap.mjs")),
  };
}

async function load(handler) {
  const place = handler.lastIndexOf(".");
  const [module, name] = [handler.slice(0, place), handler.slice(place + 1)];
  const path = join(process.env.LAMBDA_TASK_ROOT, module);
  const file = extname(path) && existsSync(path) ? path : EXTENSIONS.map((each) => path + each).find(existsSync);
  let found;
  try {
    if (!file) throw new Error(`Cannot find module '${module}'`);
    found = await import(pathToFileURL(file).href);
  } catch (error) {
    const missing = !file || error.code === "ERR_MODULE_NOT_FOUND" || error.code === "MODULE_NOT_FOUND";
    const type = missing ? "Runtime.ImportModuleError" : error instanceof SyntaxError ? "Runtime.UserCodeSyntaxError" : undefined;
    return { problem: payload(error, type) };
  }
  const call = found[name] ?? found.default?.[name];
  if (typeof call !== "function") {
    return { problem: payload(new Error(`${handler} is undefined or not exported`), "Runtime.HandlerNotFound") };
  }
  return { call };
}

// Requests

function context(message, done) {
  return {
    awsRequestId: message.request_id,
    invokedFunctionArn: message.arn,
    functionName: process.env.AWS_LAMBDA_FUNCTION_NAME,
    functionVersion: process.env.AWS_LAMBDA_FUNCTION_VERSION,
    memoryLimitInMB: process.env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: process.env.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: process.env.AWS_LAMBDA_LOG_STREAM_NAME,
    callbackWaitsForEmptyEventLoop: true,
    getRemainingTimeInMillis: () => Math.max(0, Math.floor(moment.timeout_s * 1000 - moment.slept_ms)),
    done,
    succeed: (result) => done(null, result),
    fail: (error) => done(error),
  };
}

async function answer(call, message) {
  Object.assign(moment, { at: message.at, timeout_s: message.timeout_s, slept_ms: 0 });
  requestId = message.request_id;
  process.env.SANDBOX_VERSION_AGE_S = String(message.age_s);
  const over = new Promise((resolve) => {
    moment.over = () => resolve({ timeout: true });
  });
  const ran = new Promise((resolve, reject) => {
    const done = (error, result) => (error ? reject(error) : resolve(result));
    const returned = call(JSON.parse(message.event), context(message, done), done);
    if (typeof returned?.then === "function") returned.then(resolve, reject);
    else if (returned !== undefined) resolve(returned);
    // A handler with a callback answers later; one that never does, with null when nothing is left to wait for.
    else whenIdle(() => resolve(null));
  });
  const ended = ran.then(
    (result) => ({ result: JSON.stringify(result) ?? "null" }),
    (error) => ({ error: payload(error) }),
  );
  return Promise.race([ended.catch((error) => ({ error: payload(error) })), over]);
}

async function main() {
  let unread = "";
  let queue = Promise.resolve();
  let call;
  const serve = async (message) => {
    if (call === undefined) {
      moment.at = message.at;
      const loaded = await load(message.handler);
      call = loaded.call ?? null;
      send({ ready: loaded.problem ?? null });
      return;
    }
    const reply = await answer(call, message);
    if (begun) write("\n");
    send({ ...reply, slept_s: moment.slept_ms / 1000 });
  };
  process.stdin.on("data", (data) => {
    const lines = (unread + data).split("\n");
    unread = lines.pop();
    for (const line of lines) queue = queue.then(() => serve(JSON.parse(line)));
  });
  process.stdin.on("end", () => process.exit());
}

main();
