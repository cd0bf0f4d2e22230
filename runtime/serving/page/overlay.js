// What lies over the photo: a map or a mask, and the choice of it.

import { $, el, state } from "./base.js";
import { meanOf, packed, paintHeat, paintMask, shape } from "./pictures.js";

const VEIL = [16, 18, 20, 190]; // over all classes but the one that is pointed at

export function listMaps() {
  const { explanation, attention } = state.answer;
  const heads = Array.isArray(attention?.[0]) ? attention.length : 0;
  const names = ["Photo", explanation && (heads ? "Rollout" : "Explanation"), heads && "Attention"].filter(Boolean);
  if (!names.includes(state.map)) state.map = names[1] ?? null;
  $("maps").hidden = names.length < 2;
  if ($("maps").dataset.names !== names.join()) $("maps").replaceChildren($("maps").firstElementChild, ...names.map(mapChoice));
  $("maps").dataset.names = names.join(); // of the same ones none loses the focus
  $("head").max = heads;
  showHead();
}

function mapChoice(name) {
  const input = el("input", { type: "radio", name: "map", value: name, checked: name === state.map });
  input.onchange = () => (state.map = name, showHead(), paint());
  return el("label", {}, input, name);
}

export function showHead() {
  const head = Number($("head").value);
  $("head-pick").hidden = $("head").max === "0";
  $("head").disabled = state.map !== "Attention";
  $("head-name").textContent = head ? `${head} of ${$("head").max}` : `mean of ${$("head").max}`;
  $("opacity-pick").hidden = !state.mask && !currentMap();
}

function currentMap() {
  const { explanation, attention, caption } = state.answer ?? {};
  if (caption !== undefined) return attention?.[state.word]?.values;
  if (state.map === "Attention") return $("head").value > 0 ? attention[$("head").value - 1] : meanOf(attention);
  return state.map === "Photo" ? undefined : explanation;
}

export function paint(only = state.pinned) {
  const { answer, mask } = state;
  if (!answer) return;
  state.only = only;
  const scale = shape($("overlay"), answer);
  const map = currentMap();
  if (mask) paintMask($("overlay"), mask, paintsOf(answer.shares, only));
  else if (map) paintHeat($("overlay"), map, (answer.box_xyxy ?? [0, 0, answer.width, answer.height]).map((x) => x * scale));
}

export function colorOf(name) {
  const color = state.asked.classes.find((c) => c.name === name)?.color ?? [128, 128, 128];
  return [...color, name.toLowerCase() === "background" ? 0 : 255];
}

// With which colour each class of the mask is painted: its own, or the veil where another one is pointed at.
function paintsOf(shares, only) {
  const paint = (name) => packed(only && only !== name ? VEIL : colorOf(name));
  return new Map(Object.keys(shares).map((name) => [packed(colorOf(name).slice(0, 3)), paint(name)]));
}

export const fade = () => ($("overlay").style.opacity = $("opacity").value / 100);
