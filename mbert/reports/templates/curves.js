// The curves of one face under each other, the events as bands in them, and a cursor that follows the video.

const scroll = byId("scroll");
const timeline = byId("timeline");
const MOVEMENT_UNIT = "px / 100 ms";
// `least`: how much the height of a row is at least, so that noise looks small.
const ROWS = [
  ...Object.entries(data.parts).map(([part, regions]) => ({ title: part, regions, part, unit: MOVEMENT_UNIT, least: 1 })),
  { title: "head", regions: ["head"], unit: MOVEMENT_UNIT, least: 2 },
  { title: "eye opening", regions: ["eye_open"], type: "blink", unit: "height / width", least: 0.4 },
  { title: "light", regions: ["light"], unit: "levels / 100 ms", least: 5 },
];
const open = new Set(); // parts whose regions are shown
let face = data.faces[0]?.id ?? null;
let slider = null;
let readouts = []; // [element, values] of the rows that are drawn

const binBegin = (bin) => Math.floor((bin * times.length) / data.bins);
const binOf = (position) => Math.min(Math.floor(((position + 1) * data.bins - 1) / Math.max(times.length, 1)), data.bins - 1);
const current = () => data.faces.find((other) => other.id === face);

function largest(curves, names) {
  return curves[names[0]].map((_, bin) => {
    const values = names.map((name) => curves[name][bin]).filter((value) => value !== null);
    return values.length ? Math.max(...values) / data.steps : null;
  });
}

// A scale that a few wild values do not flatten: they are cut at its top.
function topOf(rows, least) {
  const values = rows.flat().filter((value) => value !== null).sort((a, b) => a - b);
  if (!values.length) return least;
  return Math.max(Math.min(1.1 * values.at(-1), 1.5 * values[Math.floor(0.995 * (values.length - 1))]), least);
}

function curvePath(values, firstBin, top) {
  let [line, area] = ["", ""];
  let start = null;
  let x = 0;
  values.forEach((value, index) => {
    if (value === null) return;
    const bin = firstBin + index;
    const middle = (binBegin(bin) + Math.max(binBegin(bin + 1) - 1, binBegin(bin))) >> 1;
    x = Math.round(shareOf(within(middle)) * WIDTH);
    const y = Math.round(HEIGHT * (1 - Math.min(value / top, 1)));
    if (start === null) {
      start = x;
      line += `M${x} ${y}h1`;
      area += `M${x} ${HEIGHT}V${y}`;
    }
    line += `L${x} ${y}`;
    area += `L${x} ${y}`;
    if (values[index + 1] == null) {
      area += `V${HEIGHT}Z`;
      start = null;
    }
  });
  return [line, area];
}

function drawCurve(values, firstBin, top) {
  const svg = byId("curve").content.cloneNode(true);
  const [line, area] = curvePath(values, firstBin, top);
  svg.querySelector(".line").setAttribute("d", line);
  svg.querySelector(".area").setAttribute("d", area);
  return svg;
}

function place(element, event) {
  const from = shareOf(event.onset);
  const to = shareOf(times[positionOf(event.offset) + 1] ?? begin + span); // the end of the last frame
  element.style.left = `${100 * from}%`;
  element.style.width = `${100 * (to - from)}%`;
  return element;
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);
const describe = (event) =>
  `Event ${event.number}, ${event.type}, ${event.part}, ${clockText(event.onset)} to ${clockText(event.offset)}`;

function laneRow(type, members) {
  const plot = make("div", { className: "plot lane" });
  members.forEach((event, index) => {
    const button = make("button", { type: "button", className: `band ${type}`, title: describe(event) });
    button.setAttribute("aria-label", describe(event));
    button.dataset.event = event.number;
    button.tabIndex = index ? -1 : 0; // one stop for the lane; the arrow keys go on from there
    plot.append(place(button, event));
  });
  const label = make("div", { className: "label" }, make("i", { className: `swatch ${type}` }), capital(type));
  label.append(make("span", { className: "value", textContent: String(members.length) }));
  return [label, plot];
}

function curveRow(row, curves, firstBin, top, isPart) {
  const values = largest(curves, row.regions);
  const value = make("span", { className: "value" });
  const title = isPart
    ? make("button", { type: "button", className: "unfold", textContent: capital(row.title) })
    : make("span", { textContent: capital(row.title) });
  if (isPart) {
    title.setAttribute("aria-expanded", String(open.has(row.part)));
    title.addEventListener("click", () => {
      if (!open.delete(row.part)) open.add(row.part);
      draw();
      timeline.querySelector(`[data-part="${row.part}"]`).focus();
    });
    title.dataset.part = row.part;
  }
  const label = make("div", { className: isPart || !row.part ? "label" : "label region" }, title, value);
  label.title = row.unit;
  const plot = make("div", { className: "plot" });
  for (const event of events) {
    const isHere = row.type
      ? event.type === row.type
      : event.part === row.part && event.type !== "blink" && (isPart || event.regions.includes(row.regions[0]));
    if (event.face !== face || !isHere) continue;
    const band = make("div", { className: `band ${event.type}`, title: describe(event) });
    band.dataset.event = event.number;
    plot.append(place(band, event));
  }
  plot.append(drawCurve(values, firstBin, top), make("span", { className: "top", textContent: top.toPrecision(2) }));
  readouts.push([value, values, firstBin]);
  return [label, plot];
}

function axisRow() {
  const axis = make("div", { className: "plot axis", tabIndex: 0 });
  const wanted = span / (Math.max(scroll.clientWidth - 120, 120) / 90) / zoom;
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
  const every = steps.find((seconds) => seconds >= wanted) ?? steps.at(-1);
  for (let tick = Math.ceil(begin / every); tick * every < begin + span; tick++) {
    const text = clockText(tick * every);
    const mark = make("span", { textContent: every < 1 ? text.slice(0, -2) : text.slice(0, -4) });
    mark.style.left = `${100 * shareOf(tick * every)}%`;
    if (shareOf(tick * every) < 0.98) axis.append(mark);
  }
  axis.setAttribute("role", "slider");
  axis.setAttribute("aria-label", "Time");
  axis.setAttribute("aria-valuemin", "0");
  axis.setAttribute("aria-valuemax", String(last));
  slider = axis;
  return [make("div", { className: "label" }), axis];
}

function draw() {
  readouts = [];
  const rows = [axisRow()];
  const here = events.filter((event) => event.face === face);
  for (const type of data.types) {
    const members = here.filter((event) => event.type === type);
    if (members.length) rows.push(laneRow(type, members));
  }
  const now = current();
  if (now) {
    const parts = ROWS.filter((row) => row.part);
    const shared = topOf(parts.map((row) => largest(now.curves, row.regions)), parts[0].least);
    for (const row of ROWS) {
      const top = row.part ? shared : topOf([largest(now.curves, row.regions)], row.least);
      rows.push(curveRow(row, now.curves, now.first, top, Boolean(row.part)));
      if (!row.part || !open.has(row.part)) continue;
      for (const region of row.regions) {
        const only = { ...row, title: data.regions[region], regions: [region] };
        rows.push(curveRow(only, now.curves, now.first, top, false));
      }
    }
  }
  timeline.replaceChildren(...rows.flat());
  timeline.style.setProperty("--zoom", String(zoom));
  markLoop();
  moveCursor();
}

function moveCursor() {
  if (!slider) return;
  timeline.style.setProperty("--at", String(shareOf(times.length ? within(at) : 0)));
  slider.setAttribute("aria-valuenow", String(at));
  slider.setAttribute("aria-valuetext", `${clockText(times[at] ?? 0)}, frame ${frames[at] ?? 0}`);
  for (const [element, values, firstBin] of readouts) {
    const value = values[binOf(at) - firstBin];
    element.textContent = value == null ? "–" : value.toFixed(2);
  }
  if (zoom === 1) return;
  const x = shareOf(times[at] ?? 0) * slider.clientWidth;
  const room = scroll.clientWidth - slider.offsetLeft;
  if (x < scroll.scrollLeft || x > scroll.scrollLeft + room - 20) scroll.scrollLeft = x - room / 2;
}

function chooseFace(id) {
  face = id;
  byId("face-select").value = String(id);
  draw();
}

function setZoom(value) {
  zoom = Math.min(Math.max(value, 1), 64);
  byId("zoom").textContent = `${zoom}×`;
  byId("narrower").disabled = zoom === 1;
  draw();
}

function seekTo(pointer) {
  const box = slider.getBoundingClientRect();
  seek(positionOf(begin + Math.min(Math.max((pointer.clientX - box.left) / box.width, 0), 1) * span));
}

const eventOf = (target) => {
  const number = target.closest("[data-event]")?.dataset.event;
  return number && events.find((event) => event.number === Number(number));
};

timeline.addEventListener("click", (click) => {
  const event = eventOf(click.target);
  if (event) playEvent(event);
  else if (click.target.closest(".plot")) seekTo(click);
});
timeline.addEventListener("pointerdown", (press) => {
  const plot = press.target.closest(".plot");
  if (plot && press.pointerType === "mouse" && press.button === 0 && !eventOf(press.target)) plot.setPointerCapture(press.pointerId);
});
timeline.addEventListener("pointermove", (move) => {
  if (move.target.hasPointerCapture?.(move.pointerId)) seekTo(move);
});
timeline.addEventListener("keydown", (press) => {
  const lane = press.target.closest(".lane");
  const moves = { ArrowLeft: -1, ArrowRight: 1 };
  if (lane && press.key in moves) {
    const next = [...lane.children].indexOf(press.target) + moves[press.key];
    if (!lane.children[next]) return press.preventDefault();
    press.target.tabIndex = -1;
    lane.children[next].tabIndex = 0;
    lane.children[next].focus();
    press.preventDefault();
  } else if (press.target === slider) {
    const targets = { Home: 0, End: last, PageUp: positionOf(times[at] + span / 10), PageDown: positionOf(times[at] - span / 10) };
    if (!(press.key in targets)) return;
    seek(targets[press.key]);
    press.preventDefault();
  }
});

const seenLongest = [...data.faces].sort((one, other) => other.curves.head.length - one.curves.head.length);
if (seenLongest.length) face = seenLongest[0].id;
byId("face-choice").hidden = seenLongest.length < 2;
byId("face-select").append(...data.faces.map(({ id }) => make("option", { value: String(id), textContent: String(id) })));
if (face !== null) byId("face-select").value = String(face);
byId("face-select").addEventListener("change", (change) => chooseFace(Number(change.target.value)));
byId("wider").addEventListener("click", () => setZoom(zoom * 2));
byId("narrower").addEventListener("click", () => setZoom(zoom / 2));
setZoom(1);
show(0);

let width = scroll.clientWidth; // a phone also changes its height, while one scrolls
window.addEventListener("resize", () => {
  if (scroll.clientWidth !== width) draw(); // the axis has room for more or for fewer times
  width = scroll.clientWidth;
});

// ---- The table of events ----

function filter() {
  const types = new Set([...document.querySelectorAll(".type-filter:checked")].map((box) => box.value));
  const onlyCertain = byId("certain").checked;
  let count = 0;
  for (const event of events) {
    const body = byId(`event-${event.number}`);
    body.hidden = !types.has(event.type) || (onlyCertain && body.classList.contains("doubtful"));
    count += !body.hidden;
  }
  byId("shown").textContent = count < events.length ? `${count} of ${events.length} events are shown.` : "";
}

if (events.length) {
  document.querySelector("table.events").addEventListener("click", (click) => {
    const body = click.target.closest("button.event")?.closest("tbody");
    if (body) playEvent(events.find((event) => body.id === `event-${event.number}`));
  });
  for (const box of document.querySelectorAll(".type-filter, #certain")) box.addEventListener("change", filter);
  const maps = byId("maps");
  maps.addEventListener("change", () => byId("events").classList.toggle("no-maps", !maps.checked));
  filter();
}
