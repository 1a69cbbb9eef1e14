// Charts over steps: the pointer over one reads all of them at that step. A slider goes through the pictures of a run.
document.documentElement.classList.remove("no-script");
const data = JSON.parse(document.getElementById("data").textContent);
const WIDTH = 1000; // of a chart's own coordinates
const charts = [...document.querySelectorAll("[data-chart]")].map((figure) => {
  const readout = figure.querySelector(".readout");
  return { ...data[figure.dataset.chart], figure, readout, calm: readout.textContent };
});

// The bin that a step lies in: the first that ends with it or later.
function binOf(steps, step) {
  let [low, high] = [0, steps.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low;
}

function read(step) {
  for (const chart of charts) {
    const bin = binOf(chart.steps, step);
    const x = (WIDTH * (chart.steps[bin] - chart.first)) / Math.max(chart.last - chart.first, 1);
    chart.figure.querySelector(".cursor").setAttribute("d", `M${Math.min(Math.max(x, 0), WIDTH)} 0V300`);
    chart.readout.textContent = `${chart.texts[bin]} at step ${chart.steps[bin]}`;
  }
}

function calm() {
  for (const chart of charts) {
    chart.figure.querySelector(".cursor").setAttribute("d", "");
    chart.readout.textContent = chart.calm;
  }
}

for (const chart of charts) {
  const area = chart.figure.querySelector(".curves");
  area.addEventListener("pointermove", (move) => {
    const box = area.getBoundingClientRect();
    read(Math.round(chart.first + ((move.clientX - box.left) / box.width) * (chart.last - chart.first)));
  });
  area.addEventListener("pointerleave", calm);
}

const slider = document.getElementById("step");
if (slider) {
  const stages = [...document.querySelectorAll("[data-step]")];
  const show = () => {
    stages.forEach((stage, place) => (stage.hidden = place !== Number(slider.value)));
    document.getElementById("step-shown").textContent = stages[Number(slider.value)].dataset.step;
  };
  slider.addEventListener("input", show);
  show();
}
