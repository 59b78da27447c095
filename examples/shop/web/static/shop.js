// Smoother where there is JavaScript; nothing depends on it.
'use strict';

const said = document.getElementById('said');
let silence;
function say(text) {
  clearTimeout(silence);
  said.textContent = text;
  silence = setTimeout(() => { said.textContent = ''; }, 4000);
}

// Adding to the cart doesn't leave the page.
document.addEventListener('submit', async (event) => {
  const form = event.target;
  if ('once' in form.dataset) form.querySelector('button').disabled = true; // the order has a key as well, so this is courtesy only
  if (!('add' in form.dataset)) return;
  event.preventDefault();
  try {
    const answer = await fetch(form.action, { method: 'POST', body: new URLSearchParams(new FormData(form, event.submitter)) });
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    document.getElementById('count').textContent = page.getElementById('count').textContent;
    say(`${form.dataset.add} is in the cart`);
  } catch {
    say('That did not work. Please try again.');
  }
});

// An order's status follows what happens to it.
const status = document.getElementById('status');
async function follow() {
  try {
    const answer = await fetch(location.href);
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    const fresh = page.getElementById('status');
    if (answer.ok && fresh.dataset.status !== status.dataset.status) {
      status.replaceChildren(...fresh.childNodes);
      status.dataset.status = fresh.dataset.status;
    }
  } finally {
    watch();
  }
}
function watch() {
  if (status && ['pending', 'paid'].includes(status.dataset.status)) setTimeout(() => follow().catch(() => {}), 1000);
}
watch();
