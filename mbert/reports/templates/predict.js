// The player, the curves and the filters of one video's page. All of them share one place in the video: `at`, the
// position of a frame among the decoded ones. Times are those of the frames, so that a step is one frame at any rate.
document.documentElement.classList.remove("no-script");

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const LEAD_SECONDS = 0.3; // of a loop, before the onset and after the offset
const WIDTH = 10000; // of a curve's drawing, as in the template
const HEIGHT = 100;

// Straight pieces between knots: place and value of the first, then the distances from knot to knot.
function expand(knots) {
  const values = [];
  let [place, value] = [0, 0];
  for (let knot = 0; knot < knots.length; knot += 2) {
    const [run, rise] = [knots[knot], knots[knot + 1]];
    for (let step = 1; step < run; step++) values.push(value + (rise * step) / run);
    place += run;
    value += rise;
    values.push(value);
  }
  return values;
}

const times = expand(data.times).map((tick) => tick / data.ticks);
const frames = expand(data.frames);
const last = Math.max(times.length - 1, 0);
const begin = times[0] ?? 0;
const span = Math.max((times[last] ?? 0) - begin, 0.001) * (last > 0 ? 1 + 1 / last : 1); // the last frame is shown, too
const events = data.events.map(([number, face, type, part, onset, apex, offset, regions]) => ({
  number, face, type, part, onset, apex, offset, regions: regions.split(" "),
}));

const video = byId("video");
let at = 0;
let loop = null; // {from, to, event}: times of its first and last frame
let shift = 0; // a browser lets time begin at 0, whatever the file says
let seen = null; // the time of the picture that is seen, as the browser tells it
let aim = null; // {low, high, tries}: where in the time of a frame to seek, as shares of it
let zoom = 1;

const shareOf = (seconds) => Math.min(Math.max((seconds - begin) / span, 0), 1);

function positionOf(seconds) {
  let [low, high] = [0, last];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (times[middle] <= seconds + 0.0005) low = middle;
    else high = middle - 1;
  }
  return low;
}

// A time at which a frame is shown. Not its beginning: that is rounded, and may lie in the frame before it.
function within(position, share = 0.5) {
  const gap = position < last ? times[position + 1] - times[position] : times[position] - (times[position - 1] ?? 0);
  return times[position] + share * gap;
}

function clockText(seconds) {
  const ticks = Math.round(Math.abs(seconds) * 1000);
  const [hours, minutes] = [Math.floor(ticks / 3600000), Math.floor(ticks / 60000) % 60];
  const rest = ((ticks % 60000) / 1000).toFixed(3).padStart(6, "0");
  const sign = seconds < 0 ? "-" : "";
  return hours ? `${sign}${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${sign}${minutes}:${rest}`;
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// ---- The place in the video ----

function show(position) {
  at = Math.min(Math.max(position, 0), last);
  if (video) {
    byId("clock-time").textContent = clockText(times[at] ?? 0);
    byId("clock-frame").textContent = String(frames[at] ?? 0);
    byId("clock-picture").textContent = "";
  }
  moveCursor();
}

function seek(position) {
  show(position);
  if (loop && (times[at] < loop.from || times[at] > loop.to)) endLoop();
  aim = { low: 0, high: 1, tries: 0 };
  seekWithin();
}

function seekWithin() {
  if (video && times.length) video.currentTime = Math.max(within(at, (aim.low + aim.high) / 2) + shift, 0);
}

// Where frames have uneven durations, Chromium may show the one beside: it takes the order of the file for theirs.
function checkPicture() {
  if (!video.paused || video.seeking || seen === null || aim === null) return;
  const before = positionOf(seen - shift);
  const isNext = before < last && times[before + 1] - (seen - shift) < seen - shift - times[before];
  const shown = before + isNext;
  if (shown !== at && aim.tries < 6) {
    aim[shown < at ? "low" : "high"] = (aim.low + aim.high) / 2;
    aim.tries += 1;
    seekWithin();
  }
  byId("clock-picture").textContent = shown === at ? "" : `(picture of ${frames[shown]})`; // a preview may have fewer
}

function step(count) {
  if (video && !video.paused) video.pause();
  seek(at + count);
}

function skip(seconds) {
  seek(positionOf((times[at] ?? 0) + seconds));
}

function toggle() {
  if (!video) return;
  if (video.paused) play();
  else video.pause();
}

function play() {
  video.play().catch(() => {}); // what is wrong is told by the event `error`; another click may also stop a start
}

function playEvent(event) {
  if (loop?.event === event && video && !video.error) return toggle();
  if (event.face !== face) chooseFace(event.face);
  loop = {
    from: times[positionOf(event.onset - LEAD_SECONDS)],
    to: times[positionOf(event.offset + LEAD_SECONDS)],
    event,
  };
  markLoop();
  if (!video || video.error) {
    show(positionOf(event.onset));
    return;
  }
  seek(positionOf(loop.from));
  play();
  byId("player").scrollIntoView({ block: "nearest" });
}

function endLoop() {
  loop = null;
  markLoop();
}

function markLoop() {
  for (const marked of document.querySelectorAll("[aria-current]")) marked.removeAttribute("aria-current");
  const event = loop?.event;
  if (event) {
    byId(`event-${event.number}`).setAttribute("aria-current", "true");
    document.querySelector(`.lane [data-event="${event.number}"]`)?.setAttribute("aria-current", "true");
  }
  if (!video) return;
  byId("loop-end").hidden = !event;
  byId("loop-text").textContent = event
    ? `Looping event ${event.number}: ${event.type}, ${event.part}.`
    : "Choose an event to loop it.";
}

function neighbour(direction) {
  const others = events.filter((event) => !byId(`event-${event.number}`).hidden);
  const now = loop ? loop.event.onset : times[at] ?? 0;
  const before = others.filter((event) => event.onset < now - 0.001);
  const after = others.filter((event) => event.onset > now + 0.001);
  const found = direction < 0 ? before.at(-1) : after[0];
  if (found) playEvent(found);
}

function follow() {
  if (video.paused) return;
  const seconds = video.currentTime - shift;
  if (!video.seeking) {
    if (loop && positionOf(seconds) > positionOf(loop.to)) seek(positionOf(loop.from));
    else show(positionOf(seconds));
  }
  requestAnimationFrame(follow);
}

if (video) {
  video.removeAttribute("controls");
  const playButton = byId("play");
  const firstSource = video.getAttribute("src");
  const resting = () => (playButton.textContent = "Play");
  video.addEventListener("play", () => {
    playButton.textContent = "Pause";
    video.playbackRate = Number(byId("speed").value);
    requestAnimationFrame(follow);
  });
  video.addEventListener("pause", () => {
    resting();
    // So that the picture is the one whose number is told.
    if (!video.ended && !video.seeking) seek(positionOf(video.currentTime - shift));
  });
  video.addEventListener("ended", () => {
    if (!loop) return show(last); // the last frame stays
    seek(positionOf(loop.from));
    play();
  });
  video.addEventListener("error", () => (byId("video-error").hidden = false));
  video.addEventListener("click", toggle);
  video.addEventListener("emptied", resting);
  video.addEventListener("loadeddata", () => (byId("video-error").hidden = true));
  let resume = null; // what to do when the other video is there
  const watch = (_, shown) => {
    if (seen === null && video.currentTime < 0.001) shift = shown.mediaTime - begin;
    seen = shown.mediaTime;
    resume?.();
    resume = null;
    video.requestVideoFrameCallback(watch);
  };
  video.requestVideoFrameCallback(watch);
  video.addEventListener("seeked", () => requestAnimationFrame(() => requestAnimationFrame(checkPicture)));
  playButton.addEventListener("click", toggle);
  byId("back").addEventListener("click", () => step(-1));
  byId("forward").addEventListener("click", () => step(1));
  byId("speed").addEventListener("change", (change) => (video.playbackRate = Number(change.target.value)));
  byId("sound").addEventListener("change", (change) => (video.muted = !change.target.checked));
  byId("loop-end").addEventListener("click", endLoop);
  byId("source")?.addEventListener("change", (change) => {
    const goesOn = !video.paused;
    resume = () => {
      seek(at);
      if (goesOn) play();
    };
    [shift, seen] = [0, null];
    video.src = change.target.value || firstSource;
  });
}

const KEYS = {
  " ": toggle,
  ",": () => step(-1),
  ".": () => step(1),
  ArrowLeft: () => skip(-1),
  ArrowRight: () => skip(1),
  p: () => neighbour(-1),
  n: () => neighbour(1),
  Escape: endLoop,
};
document.addEventListener("keydown", (press) => {
  if (press.defaultPrevented || press.ctrlKey || press.metaKey || press.altKey || !(press.key in KEYS)) return;
  const target = press.target.closest("input, select, button, a, summary, pre");
  const isOwn = target?.matches("button, a, summary, [type=checkbox]") ? press.key === " " : target;
  if (isOwn && press.key !== "Escape") return;
  press.preventDefault();
  KEYS[press.key]();
});
