// The answer in words, bars and buttons, as JSON and as a command.

import { $, el, percent, state } from "./base.js";
import { colorOf, listMaps, paint } from "./overlay.js";
import { drawStrip } from "./pictures.js";

export function show(timing) {
  const { answer } = state;
  const focused = document.activeElement?.dataset?.name;
  const kind = Object.keys(VIEWS).find((field) => field in answer);
  const [view, spoken] = (VIEWS[kind] ?? plain)(answer);
  $("answer").replaceChildren(...view);
  if (!state.stream) $("spoken").textContent = spoken;
  $("timing").textContent = `${answer.width} × ${answer.height} · ${timing}`;
  showVector(answer.embedding);
  showRaw();
  listMaps();
  paint();
  if (focused) [...$("answer").querySelectorAll("[data-name]")].find((e) => e.dataset.name === focused)?.focus();
}

function row(tag, name, value, properties = {}) {
  const bar = el("b");
  bar.style.width = `${100 * value}%`;
  const track = el("i", { ariaHidden: "true" }, bar);
  return el(tag, { className: "row", ...properties }, el("span", {}, name), el("span", {}, percent(value)), track);
}

function classes({ top, labels }) {
  const given = labels ?? top.slice(0, 1);
  const shown = given.length > top.length ? given : top;
  const title = given.map((x) => x.label).join(", ") || "No label";
  const rows = shown.map((x, place) => row("li", x.label, x.probability, { className: place < given.length ? "row given" : "row" }));
  const threshold = labels ? state.asked.threshold : null;
  if (threshold !== null) rows.forEach((r) => markThreshold(r, threshold));
  const of = state.asked.set ? `the set ${state.asked.set}` : `${state.asked.classes.length} classes`;
  const facts = threshold === null ? `The likeliest of ${of}` : `Labels from ${percent(threshold)} on, of ${of}`;
  const spoken = given.map((x) => `${x.label} ${percent(x.probability)}`).join(", ");
  return [[heading(title), el("p", { className: "quiet" }, facts), el("ol", { className: "rows" }, ...rows)], spoken || title];
}

function markThreshold(row, threshold) {
  const tick = el("u");
  tick.style.left = `${100 * threshold}%`;
  row.querySelector("i").append(tick);
}

// How an answer is shown that has this field: the elements, and what is said aloud.
const VIEWS = { top: classes, shares: legend, caption };

const heading = (text) => el("h2", {}, text);

function legend({ shares }) {
  const names = Object.keys(shares);
  const title = names.length === 1 ? "1 class" : `${names.length} classes`;
  const rows = names.map((name) => el("li", {}, legendRow(name, shares[name])));
  const hint = el("p", { className: "quiet" }, "Point at a class to see it alone; press it to keep it.");
  const spoken = names.map((name) => `${name} ${percent(shares[name])}`).join(", ");
  return [[heading(title), hint, el("ul", { className: "rows" }, ...rows)], `${title}: ${spoken}`];
}

function legendRow(name, share) {
  const button = row("button", name, share, { type: "button", ariaPressed: String(state.pinned === name) });
  const color = `rgb(${colorOf(name).slice(0, 3)})`;
  const swatch = el("span", { className: "swatch", ariaHidden: "true" });
  swatch.style.background = button.querySelector("b").style.background = color;
  button.prepend(swatch);
  button.dataset.name = name;
  button.onfocus = () => paint(name);
  button.onmousemove = (event) => moved(event) && state.only !== name && paint(name);
  button.onmouseleave = button.onblur = () => paint();
  button.onclick = () => pin(name);
  return button;
}

// Not so where an element appears under a pointer that rests.
const moved = (event) => event.movementX || event.movementY;

function pin(name) {
  state.pinned = state.pinned === name ? null : name;
  for (const button of $("answer").querySelectorAll("button.row")) button.ariaPressed = String(button.dataset.name === state.pinned);
  paint(state.pinned ?? undefined);
}

function caption(answer) {
  const attention = answer.attention ?? [];
  const words = attention.map(({ word }, place) => wordButton(word, place));
  const facts = el("p", { className: "quiet number" }, `${answer.words} words · log probability ${answer.log_probability.toFixed(2)}`);
  const play = el("button", { type: "button", id: "play", onclick: togglePlaying }, "Play");
  if (!words.length) return [[heading(answer.caption), facts], answer.caption];
  return [[el("h2", { className: "unseen" }, answer.caption), el("div", { className: "words" }, ...words), facts, play], answer.caption];
}

function wordButton(word, place) {
  const button = el("button", { type: "button", ariaPressed: String(place === state.word) }, word);
  button.dataset.name = `${place} ${word}`;
  button.onfocus = button.onclick = () => chooseWord(place);
  button.onmousemove = (event) => moved(event) && state.word !== place && chooseWord(place);
  return button;
}

function chooseWord(place) {
  state.word = place;
  document.querySelectorAll(".words button").forEach((b, number) => (b.ariaPressed = String(number === place)));
  paint();
}

function togglePlaying() {
  if (state.player) return stopPlaying();
  const count = state.answer.attention.length;
  $("play").textContent = "Stop";
  chooseWord(0);
  state.player = setInterval(() => (state.word + 1 < count ? chooseWord(state.word + 1) : stopPlaying()), 700);
}

export function stopPlaying() {
  clearInterval(state.player);
  state.player = 0;
  if ($("play")) $("play").textContent = "Play";
}

function plain(answer) {
  const text = answer.embedding ? `${answer.embedding.length} numbers` : "Done";
  return [[heading(text), el("p", { className: "quiet" }, "The embedding of this photo: near that of photos that look alike.")], text];
}

// The embedding, the JSON and the command.

function showVector(vector) {
  $("vector").hidden = !vector;
  if (!vector) return;
  $("vector-facts").textContent = `${vector.length} numbers · norm ${Math.hypot(...vector).toPrecision(5)}`;
  drawStrip($("strip"), vector);
  const text = JSON.stringify(vector);
  $("vector-copy").onclick = () => copy($("vector-copy"), text);
  URL.revokeObjectURL($("vector-save").href);
  $("vector-save").href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  $("vector-save").download = `${state.answer.image}.embedding.json`;
}

function showRaw() {
  $("raw").hidden = $("command").hidden = false;
  if ($("raw").open) writeJson();
  const key = sessionStorage.getItem("key") ? ` -H "Authorization: Bearer $KEY"` : "";
  const url = new URL(state.where, document.baseURI).href;
  $("curl").textContent = `curl${key} --data-binary ${quoted(`@${state.answer.image}`)} ${quoted(url)}`;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function writeJson() {
  if (!state.answer) return;
  const long = (value) => typeof value === "string" && value.length > 200;
  const shortened = (_, value) => (long(value) ? `${value.slice(0, 60)}… (${value.length} characters)` : value);
  const text = JSON.stringify(state.answer, shortened, 2);
  $("json").textContent = text.replace(/\[[-\d.e+,\s]+\]/g, (numbers) => numbers.replace(/\s+/g, " "));
}

export async function copy(button, text) {
  await navigator.clipboard.writeText(text);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}
