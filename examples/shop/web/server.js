// The shop's pages, rendered here, from what the other services answer. Node.js with its standard library.
//
//     GET  /                  the shelf (?q=words, ?category=name)        GET  /cart      what was chosen
//     GET  /products/ID       one product                                 GET  /checkout  name, address, payment
//     POST /cart              product, quantity (or add): change it       POST /orders    place the order
//     GET  /orders, /orders/ID                                            GET  /behind    which service runs on which kernel
//     GET  /livez, /readyz    the process lives; the other services live
//
// Everything works without JavaScript: forms are sent, answered by a redirect, and pages are read again.
// Environment: CATALOGUE_URL, CART_URL, ORDERS_URL, PAYMENT_URL, PORT.
'use strict';
const { randomUUID } = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const path = require('node:path');
const pages = require('./pages.js');

const { CATALOGUE_URL, CART_URL, ORDERS_URL, PAYMENT_URL } = process.env;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const HEADERS = {
  'Content-Security-Policy': "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'same-origin',
};
const TYPES = { '.css': 'text/css', '.js': 'text/javascript', '.svg': 'image/svg+xml' };
const STATIC = new Map(
  fs.readdirSync(path.join(__dirname, 'static')).map((name) => [name, fs.readFileSync(path.join(__dirname, 'static', name))]),
);

const log = (level, message, fields = {}) =>
  console.log(JSON.stringify({ time: new Date().toISOString(), level, service: 'web', message, ...fields }));

// The other services. Whatever is asked of them may be asked again, so a call that gets no answer, or a 502, is repeated.
class Services {
  constructor(requestId) {
    this.requestId = requestId;
  }

  async call(url, { method = 'GET', body, headers = {}, timeout = 5000, tries = 3 } = {}) {
    const all = { 'X-Request-ID': this.requestId, ...(body && { 'Content-Type': 'application/json' }), ...headers };
    for (let attempt = 1; ; attempt++) {
      try {
        const options = { method, headers: all, body: body && JSON.stringify(body), signal: AbortSignal.timeout(timeout) };
        const answer = await fetch(url, options);
        const text = await answer.text();
        if (answer.status !== 502 || attempt === tries) return { status: answer.status, body: text ? JSON.parse(text) : null };
      } catch (error) {
        if (attempt === tries || error.name === 'TimeoutError') {
          log('error', 'no answer', { request_id: this.requestId, url, error: String(error.cause || error) });
          return { status: 503, body: { error: `${new URL(url).hostname} doesn't answer` } };
        }
      }
      await new Promise((resolve) => setTimeout(resolve, 50 * attempt));
    }
  }

  async need(url, options) {
    const answer = await this.call(url, options);
    if (answer.status === 404) throw new Failure(404, 'There is no such thing here.');
    if (answer.status !== 200) throw new Failure(503, 'Part of the shop is closed for the moment. Please try again.');
    return answer.body;
  }

  products = (q = '', category = '') => this.need(`${CATALOGUE_URL}/products?${new URLSearchParams({ q, category })}`).then((found) => found.products);
  product = (id) => this.need(`${CATALOGUE_URL}/products/${encodeURIComponent(id)}`);
  put = (cart, product, quantity) =>
    this.need(`${CART_URL}/carts/${cart}/items/${encodeURIComponent(product)}`, { method: 'PUT', body: { quantity } });
  order = (id) => this.need(`${ORDERS_URL}/orders/${encodeURIComponent(id)}`);
  orders = (cart) => this.need(`${ORDERS_URL}/orders?cart=${cart}`).then((found) => found.orders);
  place = (key, order) => this.call(`${ORDERS_URL}/orders`, { method: 'POST', body: order, headers: { 'Idempotency-Key': key }, timeout: 20_000 });

  // The cart's lines with the products' names and prices; a cart that can't be had is an empty one unless it is needed.
  async cart(id) {
    const { items } = await this.need(`${CART_URL}/carts/${id}`);
    const products = items.length ? new Map((await this.products()).map((product) => [product.id, product])) : new Map();
    return items.flatMap(({ product, quantity }) => (products.has(product) ? [{ product: products.get(product), quantity }] : []));
  }

  async count(id) {
    const { status, body } = await this.call(`${CART_URL}/carts/${id}`, { tries: 1 });
    return status === 200 ? body.items.reduce((sum, item) => sum + item.quantity, 0) : 0;
  }

  async behind() {
    const ask = async (url) => (await this.call(`${url}/livez`, { timeout: 1500, tries: 1 })).body;
    const others = await Promise.all([CATALOGUE_URL, CART_URL, ORDERS_URL, PAYMENT_URL].map(ask));
    return [here(), ...others.filter((answer) => answer.service)];
  }
}

class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const here = () => ({ service: 'web', host: os.hostname(), kernel: os.release(), language: 'Node.js' });
const page = (body, status = 200) => ({ status, type: 'text/html; charset=utf-8', body });
const redirect = (to) => ({ status: 303, headers: { Location: to }, body: '' });
const json = (status, body) => ({ status, type: 'application/json', body: JSON.stringify(body) });

async function ready() {
  if (ending) return json(503, { ready: false });
  const services = new Services(randomUUID());
  const answers = await Promise.all([CATALOGUE_URL, CART_URL, ORDERS_URL].map((url) => services.call(`${url}/livez`, { timeout: 2000, tries: 1 })));
  const yes = answers.every((answer) => answer.status === 200);
  return json(yes ? 200 : 503, { ready: yes });
}

const routes = {
  'GET /': async ({ services, query, shown }) => {
    const [q, category] = [query.get('q') || '', query.get('category') || ''];
    return page(pages.shelf(await shown(), await services.products(q, category), { q, category }));
  },
  'GET /products/:': async ({ services, id, shown }) => page(pages.product(await shown(), await services.product(id))),
  'GET /cart': async ({ services, cart, shown }) => page(pages.cart(await shown(), await services.cart(cart))),
  'POST /cart': async ({ services, cart, form }) => {
    const product = form.get('product') || '';
    await services.product(product);
    let quantity = Number.parseInt(form.get('quantity'), 10) || 0;
    if (form.has('add')) quantity += (await services.cart(cart)).find((line) => line.product.id === product)?.quantity || 0;
    await services.put(cart, product, Math.max(0, Math.min(99, quantity)));
    return redirect('/cart');
  },
  'GET /checkout': async ({ services, cart, shown }) => {
    const lines = await services.cart(cart);
    return lines.length ? page(pages.checkout(await shown(), lines, { key: randomUUID() })) : redirect('/cart');
  },
  // The form carries a key that is new with each checkout: sent twice, by a double click or after an error, it is one order.
  'POST /orders': async ({ services, cart, form, shown }) => {
    const [key, name, address, card] = ['key', 'name', 'address', 'card'].map((field) => (form.get(field) || '').trim());
    const lines = await services.cart(cart);
    const again = async (status, trouble, next = key) =>
      page(pages.checkout(await shown(), lines, { key: next, name, address, card, trouble }), status);
    if (!UUID.test(key) || !name || !address || !card) return again(400, 'Please fill in your name and address.', randomUUID());
    const { status, body } = await services.place(key, { cart, name, address, card });
    if (status === 201) return redirect(`/orders/${body.id}`);
    if (status === 402) return again(402, 'The card was declined. Nothing was charged; please try another one.', randomUUID());
    if (status === 409) return redirect('/cart');
    return again(503, 'We could not reach the bank. Your order is kept: please press the button once more, you will not be charged twice.');
  },
  'GET /orders': async ({ services, cart, shown }) => page(pages.orders(await shown(), await services.orders(cart))),
  'GET /orders/:': async ({ services, id, shown }) => page(pages.order(await shown(), await services.order(id))),
  'GET /behind': async ({ services, shown }) => page(pages.behind(await shown(), await services.behind())),
  'GET /livez': async () => json(200, here()),
  'GET /readyz': ready,
  'GET /static/:': async ({ id }) => {
    if (!STATIC.has(id)) throw new Failure(404, 'There is no such thing here.');
    return { status: 200, type: TYPES[path.extname(id)], headers: { 'Cache-Control': 'public, max-age=3600' }, body: STATIC.get(id) };
  },
};

async function bodyOf(request) {
  let text = '';
  for await (const piece of request.setEncoding('utf8')) {
    text += piece;
    if (text.length > 20_000) throw new Failure(413, 'That was too much.');
  }
  return new URLSearchParams(text);
}

async function answer(request, id) {
  const { pathname, searchParams: query } = new URL(request.url, 'http://web');
  const [, first, last, ...rest] = pathname.split('/');
  const name = `${request.method === 'HEAD' ? 'GET' : request.method} /${first}${last ? '/:' : ''}`;
  const known = /(?:^|;\s*)cart=([0-9a-f-]{36})(?:;|$)/.exec(request.headers.cookie || '')?.[1];
  const cart = UUID.test(known) ? known : randomUUID();
  const services = new Services(id);
  const shown = async () => ({ count: known ? await services.count(cart) : 0 });
  const route = rest.length ? undefined : routes[name];
  let made;
  try {
    if (!route) throw new Failure(404, 'There is no such page.');
    if (request.method === 'POST' && request.headers['sec-fetch-site'] === 'cross-site') throw new Failure(403, 'That came from another site.');
    made = await route({ services, cart, query, shown, id: decodeURIComponent(last || ''), form: request.method === 'POST' && (await bodyOf(request)) });
  } catch (error) {
    if (!error.status && !(error instanceof URIError)) log('error', 'failed', { request_id: id, error: error.stack });
    const status = error.status || (error instanceof URIError ? 400 : 500);
    made = page(pages.trouble({ count: 0 }, status, error.status ? error.message : 'Something went wrong.'), status);
  }
  const cookie = known === cart ? {} : { 'Set-Cookie': `cart=${cart}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax` };
  const kept = made.type?.startsWith('text/html') || made.status === 303 ? { 'Cache-Control': 'no-store', ...cookie } : {};
  return { ...made, headers: { ...HEADERS, ...kept, ...made.headers, ...(made.type && { 'Content-Type': made.type }) } };
}

const server = http.createServer(async (request, response) => {
  const began = performance.now();
  const id = request.headers['x-request-id'] || randomUUID();
  const { status, headers, body } = await answer(request, id);
  response.writeHead(status, { ...headers, 'Content-Length': Buffer.byteLength(body), 'X-Request-ID': id, ...(ending && { Connection: 'close' }) });
  response.end(request.method === 'HEAD' ? '' : body);
  if (/^\/(livez|readyz|static)/.test(request.url)) return;
  const milliseconds = Math.round(10 * (performance.now() - began)) / 10;
  log('info', 'request', { request_id: id, method: request.method, path: request.url, status, milliseconds });
});
server.keepAliveTimeout = 75_000; // longer than a gateway keeps a connection, so that it is the one that closes it

let ending = false;
function end() {
  ending = true;
  server.close(() => {
    log('info', 'ended');
    process.exit(0); // the connections to other services, kept open for the next call, need no farewell
  });
  server.closeIdleConnections();
}
process.on('SIGTERM', end).on('SIGINT', end);

const port = Number(process.env.PORT || 8000);
server.listen(port, () => log('info', 'listening', { port }));
