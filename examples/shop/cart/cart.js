// The cart: what a visitor has chosen, kept in Redis. Node.js with its standard library and the redis client.
//
//     GET    /carts/ID                  {"items": [{"product": "rope", "quantity": 2}, …]}, empty if there is none
//     PUT    /carts/ID/items/PRODUCT    {"quantity": 0…99}; 0 takes it out; answers as GET
//     DELETE /carts/ID                  204
//     GET    /livez, /readyz            the process lives; Redis answers
//
// Everything may be repeated without harm, so that callers may retry. ID is a random UUID: who knows it, owns the cart.
// Environment: CACHE_URL without a password, CACHE_PASSWORD_FILE, PORT.
'use strict';
const { randomUUID } = require('node:crypto');
const { readFileSync } = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const redis = require('redis');

const KEEP = 30 * 24 * 3600; // seconds that a cart is kept after its last change
const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const PRODUCT = /^[a-z0-9-]{1,64}$/;

const log = (level, message, fields = {}) =>
  console.log(JSON.stringify({ time: new Date().toISOString(), level, service: 'cart', message, ...fields }));

class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const cache = redis.createClient({
  url: process.env.CACHE_URL,
  password: readFileSync(process.env.CACHE_PASSWORD_FILE, 'utf8').trim(),
  disableOfflineQueue: true, // fail at once while Redis is away, instead of keeping callers waiting
  socket: { connectTimeout: 3000, reconnectStrategy: (tries) => Math.min(tries * 100, 1000) },
});
cache.on('error', (error) => log('warning', 'redis is away', { error: String(error.message || error) }));
cache.on('ready', () => log('info', 'connected to redis'));

async function read(id) {
  const found = await cache.hGetAll(`cart:${id}`);
  const items = Object.entries(found).map(([product, quantity]) => ({ product, quantity: Number(quantity) }));
  return { items: items.sort((one, other) => one.product.localeCompare(other.product)) };
}

async function put(id, product, body) {
  const { quantity } = body;
  if (!PRODUCT.test(product)) throw new Refusal(400, 'bad product');
  if (!Number.isInteger(quantity) || quantity < 0 || quantity > 99) throw new Refusal(400, 'quantity is 0 to 99');
  const key = `cart:${id}`;
  const change = cache.multi();
  if (quantity) change.hSet(key, product, quantity).expire(key, KEEP);
  else change.hDel(key, product);
  await change.exec();
  return read(id);
}

async function route(method, path, body) {
  const [what, id, items, product, ...rest] = path.split('/').slice(1);
  if (path === '/livez') return [200, { service: 'cart', host: os.hostname(), kernel: os.release(), language: 'Node.js' }];
  if (path === '/readyz') {
    const ready = !ending && (await cache.ping().then(() => true, () => false));
    return [ready ? 200 : 503, { ready }];
  }
  if (what !== 'carts' || rest.length) throw new Refusal(404, 'no such page');
  if (!ID.test(id)) throw new Refusal(404, 'no such cart');
  if (method === 'GET' && !items) return [200, await read(id)];
  if (method === 'PUT' && items === 'items') return [200, await put(id, product || '', body)];
  if (method === 'DELETE' && !items) return [204, await cache.del(`cart:${id}`)];
  throw new Refusal(405, 'not that way');
}

async function bodyOf(request) {
  let text = '';
  for await (const piece of request.setEncoding('utf8')) {
    text += piece;
    if (text.length > 10_000) throw new Refusal(413, 'too long');
  }
  try {
    return Object(JSON.parse(text || '{}'));
  } catch {
    throw new Refusal(400, 'the body is not JSON');
  }
}

const server = http.createServer(async (request, response) => {
  const began = performance.now();
  const id = request.headers['x-request-id'] || randomUUID();
  let status, body;
  try {
    const { pathname } = new URL(request.url, 'http://cart');
    [status, body] = await route(request.method, pathname, await bodyOf(request));
  } catch (error) {
    // what isn't a refusal is Redis that doesn't answer
    status = error.status || 503;
    body = { error: error.status ? error.message : 'carts are away for the moment' };
    if (!error.status) log('error', 'no answer from redis', { request_id: id, error: String(error) });
  }
  if (ending) response.setHeader('Connection', 'close');
  response.writeHead(status, status === 204 ? {} : { 'Content-Type': 'application/json' });
  response.end(status === 204 ? undefined : JSON.stringify(body));
  if (/^\/(livez|readyz)/.test(request.url)) return;
  const milliseconds = Math.round(10 * (performance.now() - began)) / 10;
  log('info', 'request', { request_id: id, method: request.method, path: request.url, status, milliseconds });
});
server.keepAliveTimeout = 75_000; // longer than callers keep a connection, so that they are the ones who close it

let ending = false;
function end() {
  ending = true;
  server.close(async () => {
    await cache.disconnect().catch(() => {});
    log('info', 'ended');
  });
  server.closeIdleConnections();
}
process.on('SIGTERM', end).on('SIGINT', end);

cache.connect().catch(() => {}); // its own strategy connects again
const port = Number(process.env.PORT || 8000);
server.listen(port, () => log('info', 'listening', { port }));
