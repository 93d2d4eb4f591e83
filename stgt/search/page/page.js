// The page of `stgt serve`. Texts of files only ever become textContent, never HTML.
"use strict";

const FRAMES = 4;
const element = (id) => document.getElementById(id);
const [query, answers, status_, more, player, video] = ["query", "answers", "status", "more", "player", "video"].map(element);
let shown = []; // the answers on the page
let playing = null; // the answer in the player
let request = new AbortController();
let typing; // the search that begins when nothing more is typed
let about = "";

function make(tag, name, text) {
  const made = document.createElement(tag);
  made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function clock(seconds) {
  const whole = Math.floor(seconds), parts = [Math.floor(whole / 60) % 60, whole % 60];
  if (whole >= 3600) parts.unshift(Math.floor(whole / 3600));
  return parts.map((part, i) => (i ? String(part).padStart(2, "0") : part)).join(":");
}

const count = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
const span = (moment) => `${clock(moment.start)} – ${clock(moment.end)}`;
const part = (moment) => ({film: moment.film, start: moment.start, end: moment.end});
const reason = (error) => (error instanceof TypeError ? "stgt serve does not answer. Is it still running?" : error.message);

// `seen` answers are on the page already, and stay in view.
async function ask(path, words, what, options = {}, top = 24, seen = 0) {
  request.abort();
  request = new AbortController();
  const begun = performance.now();
  status_.textContent = options.body ? "Reading the file…" : status_.textContent;
  try {
    const response = await fetch(`${path}?${new URLSearchParams({...words, top})}`, {...options, signal: request.signal});
    if (!response.ok) throw new Error(await response.text());
    shown = (await response.json()).answers;
    const took = Math.max(1, Math.round(performance.now() - begun));
    status_.textContent = shown.length ? `${count(shown.length, "moment")} ${what} · ${took} ms` : `No moments ${what}`;
    answers.replaceChildren(...shown.map(card));
    more.hidden = shown.length < top;
    more.onclick = () => ask(path, words, what, options, 2 * top, shown.length);
    if (seen) answers.children[seen]?.focus();
    else window.scrollTo(0, 0);
  } catch (error) {
    if (error.name !== "AbortError") status_.textContent = `No answer: ${reason(error)}`;
  }
}

function search() {
  const text = query.value.trim();
  history.replaceState(null, "", text ? `#${encodeURIComponent(text)}` : location.pathname);
  if (text) return ask("/search", {q: text}, `for “${text}”`);
  request.abort();
  shown = [];
  answers.replaceChildren();
  more.hidden = true;
  status_.textContent = about;
}

function like(moment) {
  close_();
  clearTimeout(typing);
  ask("/like", part(moment), `like ${span(moment)} of ${moment.name}`);
}

function byFile(file) {
  if (!file) return;
  close_();
  clearTimeout(typing);
  query.value = "";
  history.replaceState(null, "", location.pathname);
  ask("/search", {}, `like ${file.name}`, {method: "POST", body: file});
}

function picture(moment) {
  const image = new Image();
  image.src = `/sheet?${new URLSearchParams(part(moment))}`;
  image.alt = "";
  image.loading = "lazy";
  image.draggable = false;
  return image;
}

function card(moment) {
  const whole = make("button", "card"), frame = make("div", "frame"), text = make("div", "text"), ticks = make("div", "ticks");
  const image = picture(moment);
  whole.type = "button";
  whole.title = moment.path;
  for (let i = 0; i < FRAMES; i++) ticks.append(make("i", ""));
  const show = (number) => {
    image.style.left = `${-100 * number}%`;
    [...ticks.children].forEach((tick, i) => tick.classList.toggle("on", i === number));
  };
  show(1);
  frame.append(image, make("span", "time", span(moment)), ticks);
  frame.addEventListener("pointermove", (event) => {
    const box = frame.getBoundingClientRect();
    show(Math.min(FRAMES - 1, Math.max(0, Math.floor((FRAMES * (event.clientX - box.left)) / box.width))));
  });
  frame.addEventListener("pointerleave", () => show(1));
  text.append(make("span", "name", moment.name), make("span", "score", moment.score.toFixed(3)));
  whole.append(frame, text);
  whole.addEventListener("click", () => open_(moment));
  return whole;
}

function open_(moment) {
  playing = moment;
  element("title").textContent = moment.name;
  element("where").textContent = `${span(moment)} · score ${moment.score.toFixed(3)} · ${moment.path}`;
  element("fault").hidden = true;
  video.hidden = false;
  video.src = `/video/${moment.film}`;
  video.currentTime = moment.start;
  const stills = [];
  for (let i = 0; i < FRAMES; i++) {
    const still = make("button", ""), image = picture(moment), at = moment.start + ((moment.end - moment.start) * i) / FRAMES;
    image.style.left = `${-100 * i}%`;
    still.type = "button";
    still.setAttribute("aria-label", `Play from ${clock(at)}`);
    still.append(image);
    still.addEventListener("click", () => { video.currentTime = at; video.play().catch(() => {}); });
    stills.push(still);
  }
  element("stills").replaceChildren(...stills);
  player.showModal();
  video.focus();
  video.play().catch(() => {}); // some browsers want a click first
}

function close_() {
  if (player.open) player.close();
}

player.addEventListener("close", () => {
  video.pause();
  video.removeAttribute("src");
  video.load();
  const at = shown.indexOf(playing);
  playing = null;
  if (at >= 0) answers.children[at]?.focus();
});
player.addEventListener("click", (event) => { if (event.target === player) close_(); });
async function fail() {
  const moment = playing;
  if (!moment) return;
  let cause = "This browser cannot play the file. Its frames are below.";
  const address = video.src;
  video.removeAttribute("src"); // sound without a picture would go on
  video.load();
  try {
    const response = await fetch(address, {headers: {Range: "bytes=0-0"}});
    if (!response.ok) cause = `The video cannot be played: ${await response.text()}`;
  } catch (error) {
    cause = `The video cannot be played: ${reason(error)}`;
  }
  if (playing !== moment) return;
  video.hidden = true;
  for (const still of element("stills").children) still.disabled = true;
  element("fault").hidden = false;
  element("fault").textContent = cause;
}

video.addEventListener("error", fail);
video.addEventListener("loadedmetadata", () => { if (!video.videoWidth) fail(); }); // the browser knows only its sound
element("like").addEventListener("click", () => playing && like(playing));
element("close").addEventListener("click", close_);

query.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(search, 120); });
element("form").addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(typing); search(); });
element("file").addEventListener("change", (event) => { byFile(event.target.files[0]); event.target.value = ""; });

const drop = element("drop");
const dragsFile = (event) => [...event.dataTransfer.types].includes("Files"); // a text may be dropped into the search field
addEventListener("dragover", (event) => { if (dragsFile(event)) { event.preventDefault(); drop.hidden = false; } });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.hidden = true; });
addEventListener("drop", (event) => { if (dragsFile(event)) { event.preventDefault(); drop.hidden = true; byFile(event.dataTransfer.files[0]); } });
addEventListener("paste", (event) => { if (event.clipboardData.files.length) byFile(event.clipboardData.files[0]); });

function move(by) {
  const cards = [...answers.children], at = cards.indexOf(document.activeElement);
  const next = cards[at < 0 ? 0 : Math.min(cards.length - 1, Math.max(0, at + by))];
  if (at >= 0 && at + by < 0) query.focus();
  else next?.focus();
}

addEventListener("keydown", (event) => {
  if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
  const writing = document.activeElement === query;
  if (player.open) {
    if (event.key === "m" && playing) like(playing);
    return;
  }
  const columns = getComputedStyle(answers).gridTemplateColumns.split(" ").length;
  const steps = {ArrowDown: writing ? 0 : columns, ArrowUp: -columns, ArrowRight: 1, ArrowLeft: -1};
  if (writing && event.key !== "ArrowDown") return;
  if (event.key in steps) {
    event.preventDefault();
    move(steps[event.key]);
  } else if (event.key === "/" || event.key === "Escape") {
    event.preventDefault();
    query.focus();
    query.select();
  } else if (event.key === "m") {
    const at = [...answers.children].indexOf(document.activeElement);
    if (at >= 0) like(shown[at]);
  }
});

function searchAddress() {
  try {
    query.value = decodeURIComponent(location.hash.slice(1));
  } catch { /* the address does not hold a search */ }
  search();
}

fetch("/about").then(async (response) => {
  if (!response.ok) throw new Error(await response.text());
  const value = await response.json();
  about = `${count(value.windows, "moment")} of ${count(value.files, "video")}`;
}).catch((error) => { about = `No answer: ${reason(error)}`; }).finally(() => {
  if (!query.value && !shown.length) status_.textContent = about;
});
addEventListener("hashchange", searchAddress);
if (location.hash) searchAddress();
