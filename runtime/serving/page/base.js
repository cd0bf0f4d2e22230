// What all parts of the page use.

export const $ = (id) => document.getElementById(id);

// file: the photo that is asked about, perhaps one that the browser cannot show. answer: of the server to `where`, asked of
// the model `asked`, its mask as pixels. map: the one over the photo, by name. word, pinned: the word and the class that were
// chosen. only: the class that is seen alone. stream: the camera's, while it is on. ask: ends the question under way. player:
// the timer of the words.
export const state = {
  models: [], file: null, unshowable: false, answer: null, asked: null, where: "", mask: null, map: null, word: 0,
  pinned: null, only: null, stream: null, ask: null, player: 0,
};

export function el(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export const percent = (x) => (x > 0 && x < 0.001 ? "<0.1 %" : `${(100 * x).toFixed(1)} %`);
