"use strict";
// Decisions wait in `unsaved` until the server has stored them, and are sent again if it does not answer.

const $ = id => document.getElementById(id);
const NONE = "none", AHEAD = 8, MAX_RECENT = 6, RETRY_MS = 400, POLL_MS = 2000;
const KEYS = "1234567890abcdefghijklmnopqrstuvwxyz";

let about = null, status = null, keys = new Map(), classOf = new Map();
let queue = [];       // pictures to show; the first is shown
let history = [];     // decided pictures, the newest last
let unsaved = [];     // decisions, skips and undos that are not stored yet
let handled = new Set();  // images decided, skipped or undone after the last request for pictures began, or unsaved then
let sending = false, fetching = false, shown = null, problem = "";

async function request(path, body) {
  const options = body === undefined ? {} : {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)};
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw {retry: true, message: "The program does not answer. Unsaved labels are sent again as soon as it does."};
  }
  if (response.ok) return response.json();
  const message = (await response.text()).trim();
  // After a restart, this page is valid again as soon as the new address has been opened in the same browser.
  throw {retry: [403, 503].includes(response.status), message: response.status === 403 ? "This page is no longer valid: open the address that the command printed last." : message};
}

const wait = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));

function report(message) {
  problem = message;
  $("problem").textContent = message;
  $("problem").hidden = !message;
}

// ---- pictures

async function more() {
  if (fetching) return;
  fetching = true;
  try {
    handled = new Set(unsaved.map(entry => entry.picture.image));
    const found = await request("next");
    take(found);
  } catch (error) {
    report(error.message);
  } finally {
    fetching = false;
  }
}

function take(found) {
  status = found.status;
  if (!unsaved.length) report("");
  for (const picture of found.pictures) {
    const known = queue.find(other => other.image === picture.image);
    if (known) {
      known.answers = picture.answers;
      known.note = picture.note;
    } else if (!handled.has(picture.image)) {  // the server may have answered before it stored the decision
      queue.push(picture);
      load(picture);
    }
  }
  draw();
}

async function load(picture) {
  for (let attempt = 0; !picture.isSeen && (attempt === 0 || queue.includes(picture)); attempt++) {
    picture.view = new Image();
    picture.view.src = `picture/${picture.image}${attempt ? `?attempt=${attempt}` : ""}`;
    try {
      await picture.view.decode();
      picture.isSeen = true;  // nothing is decided about a picture that nobody has seen
      picture.problem = "";
    } catch {  // the program may be starting again
      picture.problem = "The picture cannot be shown. It is being loaded again; you can also skip it.";
      await wait(RETRY_MS);
    }
    if (queue[0] === picture) { show(); draw(); }
  }
}

function draw() {
  const picture = queue[0];
  if (picture !== shown) {
    shown = picture ?? null;
    if (picture) show();
  }
  $("facts").hidden = !picture;
  $("picture").hidden = !picture;
  $("empty").hidden = !!picture;
  for (const button of [...$("classes").children, $("none"), $("zoom")]) button.disabled = !canDecide();
  $("skip").disabled = !picture || isUndoing();
  $("undo").disabled = !history.length;
  if (picture) facts(picture); else {
    $("name").textContent = "";
    $("empty").textContent = !status ? "Starting …" : !status.complete ? `Reading pictures: ${number(status.read)} of ${number(status.pictures)}` : unsaved.length ? "Saving …" : "All pictures are reviewed. Ctrl-C in the terminal ends the review.";
  }
  progress();
}

function show() {
  const picture = queue[0], image = $("picture");
  if (!picture) return;
  if (!picture.isSeen) {
    image.removeAttribute("src");
    return;
  }
  image.src = picture.view.src;
  image.alt = `Picture to label: ${picture.name}`;
  image.classList.toggle("small", picture.view.naturalWidth > 0 && Math.max(picture.view.naturalWidth, picture.view.naturalHeight) <= 256);
  if ($("frame").classList.contains("zoomed")) image.src = `picture/${picture.image}?zoomed`;
  $("frame").scrollTo(0, 0);
  $("seen").hidden = true;
  if (picture.view.naturalWidth > 64) {
    const seen = $("seen");
    seen.onload = () => { seen.hidden = queue[0] !== picture; };
    seen.onerror = () => { seen.hidden = true; };
    seen.src = `picture/${picture.image}?seen`;
  }
}

function facts(picture) {
  $("why").textContent = picture.why;
  $("why").className = `badge ${picture.why}`;
  $("split").textContent = picture.split + (picture.isNew ? ", new" : "");
  $("label").textContent = picture.label ?? "none yet";
  $("name").textContent = picture.name;
  answers($("answers"), picture.answers);
  $("note").textContent = picture.problem || picture.note || (picture.answers.length || !status ? "" : status.model.state === "loading" ? "The model is loading." : "The model has not answered yet.");
  for (const button of $("classes").children) button.classList.toggle("current", button.dataset.label === picture.label);
}

function answers(list, found) {
  list.replaceChildren(...found.map(answer => {
    const row = document.createElement("li"), name = document.createElement("span"), meter = document.createElement("meter"), share = document.createElement("span");
    name.textContent = answer.class;
    meter.value = answer.probability;
    meter.setAttribute("aria-label", `Probability of ${answer.class}`);
    share.textContent = `${(100 * answer.probability).toFixed(answer.probability > 0.999 ? 0 : 1)}%`;
    row.append(name, meter, share);
    return row;
  }));
}

const number = count => count.toLocaleString("en");

function progress() {
  if (!status) return;
  const {tally, left, model} = status, waiting = unsaved.length;
  $("bar").value = tally.reviewed / Math.max(1, tally.reviewed + left);
  const parts = [`${number(tally.reviewed)} reviewed`, `${number(left)} left`];
  for (const kind of ["corrected", "removed", "added"]) if (tally[kind]) parts.push(`${number(tally[kind])} ${kind}`);
  if (!status.complete) parts.push(`${number(status.read)} of ${number(status.pictures)} read`);
  if (status.unreadable) parts.push(`${number(status.unreadable)} cannot be read`);
  $("counts").textContent = parts.join(" · ");
  $("model").textContent = model.state === "ready" ? (model.notice ? `${model.name}: ${model.notice}` : model.name) : model.state === "loading" ? `${model.name}: the model is loading` : model.name ? `${model.name} cannot be used: ${model.problem}` : model.problem;
  $("saved").classList.toggle("waiting", waiting > 0);
  const last = history.at(-1);
  $("saved").textContent = waiting ? `Saving ${waiting} …` : last ? `Saved: ${text(last.decided)}${last.picture.label && last.picture.label !== last.decided ? `, was ${text(last.picture.label)}` : ""}` : "";
  $("recent-heading").hidden = !history.length;
}

const text = label => label === NONE ? $("none-text").textContent.toLowerCase() : label;

function recent() {
  $("recent").replaceChildren(...history.slice(-MAX_RECENT).reverse().map(entry => {
    const item = document.createElement("li"), image = document.createElement("img"), label = document.createElement("span");
    image.src = entry.picture.view.src;
    image.alt = "";
    label.textContent = text(entry.decided);
    item.append(image, label);
    return item;
  }));
}

// ---- decisions

function decide(label) {
  if (!canDecide()) return;
  const picture = queue.shift();
  history.push({picture, decided: label});
  recent();
  send({path: "decide", picture, label});
}

function skip() {
  if (queue.length && !isUndoing()) send({path: "skip", picture: queue.shift()});
}

function undo() {
  const last = history.pop();
  if (!last) return;
  recent();
  send({path: "undo", picture: last.picture});
}

// The picture that was undone is about to be shown again, and a key is meant for it.
const isUndoing = () => unsaved.some(entry => entry.path === "undo");
const canDecide = () => queue[0]?.isSeen && !isUndoing();

function send(entry) {
  unsaved.push(entry);
  handled.add(entry.picture.image);
  draw();
  flush();
  if (queue.length < AHEAD / 2) more();
}

async function flush() {
  if (sending) return;
  sending = true;
  while (unsaved.length) {
    const {path, picture, label} = unsaved[0];
    try {
      const body = {image: picture.image, why: picture.why, seen: picture.seen + (path === "undo" ? 1 : 0)};
      const found = await request(path, path === "decide" ? {...body, label} : body);
      unsaved.shift();
      status = found.status;
      report("");
      if (path === "undo") {
        Object.assign(picture, found.picture);
        queue.unshift(picture);
      }
      draw();
    } catch (error) {
      report(error.message);
      draw();
      if (error.retry) {
        await wait(RETRY_MS);
        continue;
      }
      unsaved.shift();
      if (path === "decide") {  // it was not stored, so it is not shown as stored
        history = history.filter(entry => entry.picture !== picture);
        recent();
      }
      draw();
    }
  }
  sending = false;
  if (queue.length < AHEAD) await more();
}

// ---- keys

function assignKeys(classes) {
  const free = new Set(KEYS);
  const assign = (label, key) => { keys.set(key, label); classOf.set(label, key); free.delete(key); };
  for (const label of classes) if ([...label].length === 1 && !keys.has(label.toLowerCase())) assign(label, label.toLowerCase());
  for (const label of classes) {
    if (classOf.has(label) || !free.size) continue;
    assign(label, [...label.toLowerCase()].find(letter => free.has(letter)) ?? free.values().next().value);
  }
}

function classButtons(classes) {
  $("classes").replaceChildren(...classes.map(label => {
    const button = document.createElement("button"), key = classOf.get(label);
    button.type = "button";
    button.dataset.label = label;
    if (key && key !== label.toLowerCase()) {
      const shown = document.createElement("kbd");
      shown.textContent = key;
      button.append(shown, " ");
    }
    button.append(label);
    if (key) button.setAttribute("aria-keyshortcuts", key);
    button.addEventListener("click", () => { decide(label); button.blur(); });
    return button;
  }));
  $("classes").classList.toggle("wide", classes.some(label => label.length > 3));
  $("by-name").hidden = classes.length <= KEYS.length;
  $("class-names").replaceChildren(...classes.map(label => { const option = document.createElement("option"); option.value = label; return option; }));
}

function zoom() {
  const zoomed = $("frame").classList.toggle("zoomed");
  $("zoom").setAttribute("aria-pressed", zoomed);
  $("frame").tabIndex = zoomed ? 0 : -1;  // so that keys scroll it
  if (zoomed) $("frame").focus();
  show();
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, [role=tab]") || $("review").hidden) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (keys.has(key)) { if (!event.repeat) decide(keys.get(key)); }
  else if (key === "ArrowLeft" || key === "Backspace") { if (!event.repeat) undo(); }
  else if (key === "ArrowRight") { if (!event.repeat) skip(); }
  else if (key === "Delete" || key === "-") { if (!event.repeat) decide(NONE); }
  else if (key === "+" || key === "=") zoom();
  else if (key === "Escape" && $("frame").classList.contains("zoomed")) zoom();
  else return;
  event.preventDefault();
});
for (const [id, action] of [["undo", undo], ["skip", skip], ["none", () => decide(NONE)], ["zoom", zoom]])
  $(id).addEventListener("click", () => { action(); $(id).blur(); });
$("frame").addEventListener("click", () => { if (queue.length) zoom(); });
$("by-name").addEventListener("submit", event => {
  event.preventDefault();
  const label = $("class-name").value;
  if (!about.classes.includes(label) || !canDecide()) return;
  $("class-name").value = "";
  $("class-name").blur();
  decide(label);
});
addEventListener("beforeunload", event => { if (unsaved.length) event.preventDefault(); });

// ---- tabs

function select(name) {
  for (const other of ["review", "draw"]) {
    const isSelected = other === name;
    $(other).hidden = !isSelected;
    $(`tab-${other}`).setAttribute("aria-selected", isSelected);
    $(`tab-${other}`).tabIndex = isSelected ? 0 : -1;
  }
}
for (const name of ["review", "draw"]) {
  const other = name === "review" ? "draw" : "review";
  $(`tab-${name}`).addEventListener("click", () => { select(name); (name === "draw" ? $("canvas") : $("review")).focus(); });
  $(`tab-${name}`).addEventListener("keydown", event => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.preventDefault();
    select(other);
    $(`tab-${other}`).focus();
  });
}

// ---- drawing

const canvas = $("canvas"), pen = canvas.getContext("2d");
let paper = "#fff", ink = "#000", at = null, cursor = {x: 140, y: 140}, isBlank = true, asking = false, again = false;

function clearPaper() {
  pen.fillStyle = paper;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  isBlank = true;
  $("drawn").textContent = "Draw something";
  $("drawn-note").textContent = "";
  answers($("drawn-answers"), []);
}

function stroke(from, to) {
  pen.strokeStyle = ink;
  pen.lineWidth = 20;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(from.x, from.y);
  pen.lineTo(to.x, to.y);
  pen.stroke();
  isBlank = false;
  ask();
}

async function ask() {
  if (asking) { again = true; return; }
  asking = true;
  do {
    again = false;
    try {
      const blob = await new Promise(resolve => canvas.toBlob(resolve, "image/png"));
      const response = await fetch("draw", {method: "POST", headers: {"Content-Type": "image/png"}, body: blob}).catch(() => { throw {message: "The program does not answer."}; });
      if (!response.ok) throw {message: (await response.text()).trim()};
      const found = await response.json();
      status = found.status;
      if (isBlank) break;
      const isLoading = found.status.model.state === "loading";
      $("drawn").textContent = found.answers ? found.answers[0].class : isLoading ? "…" : "?";
      $("drawn-note").textContent = found.note ?? (isLoading ? "The model is loading." : found.status.model.problem);
      answers($("drawn-answers"), found.answers ?? []);
      if (isLoading) { await wait(RETRY_MS); again = true; }
    } catch (error) {
      $("drawn-note").textContent = error.message;
    }
  } while (again);
  asking = false;
}

const point = event => {
  const box = canvas.getBoundingClientRect();
  return {x: (event.clientX - box.left) * canvas.width / box.width, y: (event.clientY - box.top) * canvas.height / box.height};
};
canvas.addEventListener("pointerdown", event => {
  canvas.setPointerCapture(event.pointerId);
  at = point(event);
  stroke(at, at);
});
canvas.addEventListener("pointermove", event => {
  if (!at) return;
  for (const each of event.getCoalescedEvents?.() ?? [event]) { const next = point(each); stroke(at, next); at = next; }
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { at = null; });
canvas.addEventListener("keydown", event => {
  const move = {ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, -10], ArrowDown: [0, 10]}[event.key];
  if (event.key === "Delete" || event.key === "Backspace") clearPaper();
  else if (move) {
    const next = {x: Math.min(270, Math.max(10, cursor.x + move[0])), y: Math.min(270, Math.max(10, cursor.y + move[1]))};
    if (event.shiftKey) stroke(cursor, next);
    cursor = next;
    $("how-to-draw").textContent = `Pen at ${cursor.x}, ${cursor.y} of 280, 280. Arrow keys move, Shift and an arrow key draw, Delete clears.`;
  } else return;
  event.preventDefault();
});
$("clear").addEventListener("click", clearPaper);

// ---- start

async function start() {
  while (!about) {
    try {
      about = await request("about");
    } catch (error) {
      report(error.message);
      await wait(RETRY_MS);
    }
  }
  assignKeys(about.classes);
  classButtons(about.classes);
  if (!about.classes.every(label => /^\d$/.test(label))) $("none-text").textContent = "None of these";
  if (about.lightOnDark) [paper, ink] = ["#000", "#fff"];
  clearPaper();
  for (;;) {
    if (!document.hidden || !queue.length) await more();
    await wait(queue.length && status?.model.state === "ready" ? POLL_MS : RETRY_MS);
  }
}
start();
