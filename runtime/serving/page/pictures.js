// Pixels: maps as heat, masks, embeddings. Maps are arrays of lines of numbers.

const INFERNO = [
  [0, 0, 4], [27, 12, 65], [74, 12, 107], [120, 28, 109], [165, 44, 96], [207, 68, 70], [237, 105, 37], [251, 155, 6],
  [247, 209, 61], [252, 255, 164],
]; // of matplotlib (CC0, van der Walt & Smith 2015), as in runtime/results/draw.py
const LONGEST = 1200; // pixels of the overlay's longer side

// Gives a canvas the shape of a picture; clears it too.
export function shape(canvas, { width, height }) {
  const scale = LONGEST / Math.max(width, height);
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  return scale;
}

export const meanOf = (maps) => maps[0].map((line, y) => line.map((_, x) => maps.reduce((sum, map) => sum + map[y][x], 0) / maps.length));

// Paints a map of values over the region left, top, right, bottom of the canvas, and dims the rest.
export function paintHeat(canvas, map, [left, top, right, bottom]) {
  const context = canvas.getContext("2d");
  context.fillStyle = "#000a"; // what the network did not see
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.clearRect(left, top, right - left, bottom - top);
  context.imageSmoothingQuality = "high";
  context.drawImage(heat(map), left, top, right - left, bottom - top);
}

function heat(map, size = 224) {
  const at = sampler(readable(map));
  const pixels = new ImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    const value = at(((i % size) + 0.5) / size, (Math.floor(i / size) + 0.5) / size);
    pixels.data.set([...inferno(value), 255 * (0.2 + 0.8 * value)], 4 * i);
  }
  const canvas = Object.assign(document.createElement("canvas"), { width: size, height: size });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

// Stretches a map to 0..1 for the eye, as runtime/results/draw.py does: the brightest 3 % are clipped.
function readable(map) {
  const sorted = map.flat().sort((a, b) => a - b);
  const [low, high] = [sorted[0], sorted[Math.floor(0.97 * (sorted.length - 1))]];
  return map.map((line) => line.map((v) => Math.sqrt(Math.min(1, (v - low) / Math.max(high - low, 1e-12)))));
}

// Returns the bilinear value of a map at x, y in 0..1.
function sampler(map) {
  const [height, width] = [map.length, map[0].length];
  const between = (t, count) => {
    const place = Math.min(Math.max(t * count - 0.5, 0), count - 1);
    const low = Math.floor(place);
    return [low, Math.min(low + 1, count - 1), place - low];
  };
  return (x, y) => {
    const [[x0, x1, u], [y0, y1, v]] = [between(x, width), between(y, height)];
    return (map[y0][x0] * (1 - u) + map[y0][x1] * u) * (1 - v) + (map[y1][x0] * (1 - u) + map[y1][x1] * u) * v;
  };
}

function inferno(value) {
  const place = value * (INFERNO.length - 1);
  const low = Math.min(Math.floor(place), INFERNO.length - 2);
  return INFERNO[low].map((c, i) => c + (INFERNO[low + 1][i] - c) * (place - low));
}

// Returns a mask, a PNG whose colours are classes, as `ImageData` at the overlay's size.
export async function maskPixels({ mask, width, height }) {
  const image = Object.assign(new Image(), { src: mask });
  await image.decode();
  const canvas = document.createElement("canvas");
  shape(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false; // colours are names here
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

// Paints a mask's pixels, uint32 colours: those of `paints`, by their own colour, anew. Nothing is painted where alpha is 0.
export function paintMask(canvas, { width, height, data }, paints) {
  const pixels = new Uint32Array(data.buffer).map((color) => paints.get(color) ?? color);
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0);
}

// Returns a colour as `Uint32Array` of an `ImageData` holds it.
export const packed = ([r, g, b, a = 255]) => ((a << 24) | (b << 16) | (g << 8) | r) >>> 0;

// Draws numbers as small squares: negative ones blue, positive ones amber, deeper where they are larger.
export function drawStrip(canvas, vector, columns = 64) {
  Object.assign(canvas, { width: columns, height: Math.ceil(vector.length / columns) });
  const context = canvas.getContext("2d");
  const largest = Math.max(...vector.map(Math.abs), 1e-12);
  vector.forEach((value, i) => {
    context.fillStyle = value < 0 ? "#3b82f6" : "#f59e0b";
    context.globalAlpha = Math.sqrt(Math.abs(value) / largest);
    context.fillRect(i % columns, Math.floor(i / columns), 1, 1);
  });
}
