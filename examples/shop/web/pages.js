// The pages, as functions from data to HTML. `html` escapes whatever is put in, but for what `html` itself has made.
'use strict';

class Markup {
  constructor(text) {
    this.text = text;
  }
  toString() {
    return this.text;
  }
}
const ENTITIES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
const escape = (value) => {
  if (value instanceof Markup) return value.text;
  if (Array.isArray(value)) return value.map(escape).join('');
  return value === undefined || value === null || value === false ? '' : String(value).replace(/[&<>"']/g, (sign) => ENTITIES[sign]);
};
const html = (parts, ...values) => new Markup(parts.reduce((text, part, index) => text + escape(values[index - 1]) + part));

const CATEGORIES = ['Deck', 'Navigation', 'Light', 'Safety', 'Galley'];
const STEPS = [['pending', 'Placed'], ['paid', 'Paid, being packed'], ['shipped', 'Shipped']];
const SAID = { pending: 'Waiting for payment', paid: 'Paid, being packed', shipped: 'Shipped', declined: 'Card declined' };

const money = (cents) => `€\u00a0${(cents / 100).toFixed(2)}`;
const icon = (name) => html`<svg class="icon" viewBox="0 0 64 64" aria-hidden="true"><use href="/static/icons.svg#${name}"/></svg>`;
const total = (lines) => lines.reduce((sum, { product, quantity }) => sum + product.price * quantity, 0);
const link = (href, text, here) => html`<a href="${href}"${href === here ? html` aria-current="page"` : ''}>${text}</a>`;

// `refresh`: seconds after which a browser without JavaScript reads the page again.
const layout = ({ count, here = '', refresh = 0 }, title, main) => `<!doctype html>\n${html`<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title} · Twinhull Chandlery</title>
<link rel="icon" href="/static/logo.svg" type="image/svg+xml">
<link rel="stylesheet" href="/static/style.css">
<script src="/static/shop.js" defer></script>
${refresh ? html`<noscript><meta http-equiv="refresh" content="${refresh}"></noscript>` : ''}
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
<a class="brand" href="/"><img src="/static/logo.svg" alt="" width="40" height="40">Twinhull Chandlery</a>
<nav aria-label="Shop">${link('/', 'Shelf', here)} ${link('/orders', 'Orders', here)} ${link('/behind', 'Behind the counter', here)}</nav>
<a class="button quiet basket" href="/cart"${here === '/cart' ? html` aria-current="page"` : ''}>Cart <span class="count" id="count">${count}</span></a>
</header>
<main id="main" tabindex="-1">
${main}
</main>
<p class="said" id="said" role="status"></p>
<footer><p>An example of <strong>Twinhull</strong>: nothing here is sold, and no card is charged.</p></footer>
</body>
</html>`}\n`;

const buy = (product, label) => html`<form method="post" action="/cart" data-add="${product.name}">
<input type="hidden" name="product" value="${product.id}"><input type="hidden" name="quantity" value="1">
<button name="add" value="1" aria-label="Add ${product.name} to the cart">${label}</button></form>`;

const card = (product) => html`<li class="card">
<a class="picture" href="/products/${product.id}" tabindex="-1" aria-hidden="true">${icon(product.icon)}</a>
<h2><a href="/products/${product.id}">${product.name}</a></h2>
<p class="muted">${product.category}</p>
<div class="row"><strong>${money(product.price)}</strong>${buy(product, 'Add')}</div>
</li>`;

exports.shelf = (shown, products, { q, category }) => layout({ ...shown, here: '/' }, 'Shelf', html`
<h1>Things that float, hold or shine</h1>
<form class="search" role="search" action="/">
<label for="q">Search the shelf</label>
<div class="row"><input id="q" name="q" type="search" value="${q}">${category ? html`<input type="hidden" name="category" value="${category}">` : ''}<button>Search</button></div>
</form>
<nav class="chips" aria-label="Categories"><a href="/"${category ? '' : html` aria-current="true"`}>All</a>
${CATEGORIES.map((name) => html`<a href="/?category=${name}"${name === category ? html` aria-current="true"` : ''}>${name}</a>`)}</nav>
<p class="muted">${products.length === 1 ? 'One article' : `${products.length} articles`}${q && html` for “${q}”`}</p>
<ul class="shelf">${products.map(card)}</ul>`);

exports.product = (shown, product) => layout(shown, product.name, html`
<article class="product">
<div class="picture">${icon(product.icon)}</div>
<div>
<p class="muted"><a href="/?category=${product.category}">${product.category}</a></p>
<h1>${product.name}</h1>
<p>${product.description}</p>
<p class="price">${money(product.price)}</p>
${buy(product, 'Add to cart')}
</div>
</article>`);

const cartLine = ({ product, quantity }) => html`<tr>
<th scope="row"><a href="/products/${product.id}">${product.name}</a></th>
<td><form class="row" method="post" action="/cart"><input type="hidden" name="product" value="${product.id}">
<label class="hidden" for="of-${product.id}">How many of ${product.name}</label>
<input id="of-${product.id}" name="quantity" type="number" min="0" max="99" value="${quantity}">
<button class="quiet" aria-label="Change how many of ${product.name}">Change</button></form></td>
<td class="number">${money(product.price * quantity)}</td>
</tr>`;

exports.cart = (shown, lines) => layout({ ...shown, here: '/cart' }, 'Cart', lines.length ? html`
<h1>Cart</h1>
<table>
<thead><tr><th scope="col">Article</th><th scope="col">Quantity</th><th scope="col" class="number">Price</th></tr></thead>
<tbody>${lines.map(cartLine)}</tbody>
<tfoot><tr><th scope="row" colspan="2">Total</th><td class="number"><strong>${money(total(lines))}</strong></td></tr></tfoot>
</table>
<p><a class="button" href="/checkout">Check out</a> <a href="/">Look around some more</a></p>` : html`
<h1>Cart</h1>
<p>Nothing in it yet.</p>
<p><a class="button" href="/">To the shelf</a></p>`);

const choice = (value, text, chosen) => html`<label class="choice"><input type="radio" name="card" value="${value}"${value === chosen ? html` checked` : ''}> ${text}</label>`;

exports.checkout = (shown, lines, { key, name = '', address = '', card: chosen = 'tok_pays', trouble = '' }) => layout(shown, 'Check out', html`
<h1>Check out</h1>
${trouble && html`<p class="trouble" role="alert">${trouble}</p>`}
<form class="stack" method="post" action="/orders" data-once>
<input type="hidden" name="key" value="${key}">
<label for="name">Name</label>
<input id="name" name="name" autocomplete="name" required maxlength="100" value="${name}">
<label for="address">Address</label>
<textarea id="address" name="address" autocomplete="street-address" required maxlength="500" rows="3">${address}</textarea>
<fieldset><legend>Payment</legend>
${choice('tok_pays', 'A test card that pays', chosen)}
${choice('tok_declined', 'A test card that is declined', chosen)}
</fieldset>
<p>${lines.map(({ product, quantity }) => html`${quantity} × ${product.name}<br>`)}<strong>Total ${money(total(lines))}</strong></p>
<p><button>Place the order</button></p>
</form>`);

const steps = (status) => {
  const reached = STEPS.findIndex(([name]) => name === status);
  return html`<ol class="steps">${STEPS.map(([, text], index) => html`<li class="${index <= reached ? 'done' : ''}"${index === reached ? html` aria-current="step"` : ''}>${text}</li>`)}</ol>`;
};

exports.order = (shown, order) => layout({ ...shown, refresh: order.status === 'paid' || order.status === 'pending' ? 2 : 0 }, 'Order', html`
<h1>${order.status === 'declined' ? 'Your order was not paid' : `Thank you, ${order.name}`}</h1>
<section id="status" data-status="${order.status}" aria-live="polite">
<p>Order <code>${order.id.slice(0, 8)}</code>: <strong>${SAID[order.status] || order.status}</strong></p>
${order.status === 'declined' ? '' : steps(order.status)}
</section>
<table>
<thead><tr><th scope="col">Article</th><th scope="col" class="number">Quantity</th><th scope="col" class="number">Price</th></tr></thead>
<tbody>${order.lines.map((line) => html`<tr><th scope="row">${line.name}</th><td class="number">${line.quantity}</td><td class="number">${money(line.price * line.quantity)}</td></tr>`)}</tbody>
<tfoot><tr><th scope="row" colspan="2">Total</th><td class="number"><strong>${money(order.total)}</strong></td></tr></tfoot>
</table>
<h2>Goes to</h2>
<p class="address">${order.name}\n${order.address}</p>`);

exports.orders = (shown, orders) => layout({ ...shown, here: '/orders' }, 'Orders', html`
<h1>Orders</h1>
${orders.length ? html`<table>
<thead><tr><th scope="col">Order</th><th scope="col">Placed</th><th scope="col">Status</th><th scope="col" class="number">Total</th></tr></thead>
<tbody>${orders.map((order) => html`<tr><th scope="row"><a href="/orders/${order.id}"><code>${order.id.slice(0, 8)}</code></a></th>
<td>${order.placed.slice(0, 16).replace('T', ' ')}</td><td>${SAID[order.status] || order.status}</td><td class="number">${money(order.total)}</td></tr>`)}</tbody>
</table>` : html`<p>None yet.</p>`}`);

exports.behind = (shown, services) => layout({ ...shown, here: '/behind' }, 'Behind the counter', html`
<h1>Behind the counter</h1>
<p>Each service tells which kernel it sees. Containers share the machine's; a VM has one of its own. <code>twinhull isolate SERVICE vm</code> moves one over,
while the shop stays open.</p>
<div class="wide" tabindex="0" role="region" aria-label="Services">
<table>
<thead><tr><th scope="col">Service</th><th scope="col">Language</th><th scope="col">Instance</th><th scope="col">Kernel</th></tr></thead>
<tbody>${services.map((one) => html`<tr><th scope="row">${one.service}</th><td>${one.language}</td><td><code>${one.host}</code></td>
<td><code>${one.kernel}</code>${one.kernel === services[0].kernel ? '' : html` <span class="tag">another kernel</span>`}</td></tr>`)}</tbody>
</table>
</div>`);

exports.trouble = (shown, status, message) => layout(shown, `Error ${status}`, html`
<h1>${message}</h1>
<p>Error ${status}. <a href="/">Back to the shelf</a></p>`);
