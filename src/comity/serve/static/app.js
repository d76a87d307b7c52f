// The page of `comity serve`. Whatever comes from the server or the user is shown as text, never as
// HTML, so it cannot add anything to the page.

const SHOWN_CLASSES = 6;
const SHOWN_ROWS = 100;

const byId = (id) => document.getElementById(id);

let run = null; // what /v1/tasks answered

// --- small helpers -------------------------------------------------------------------------------

/** An element with a class, and texts or elements inside. */
function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** Send a request; returns the JSON, or throws an Error with one sentence. */
async function request(path, body, signal) {
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers: body ? { "content-type": "application/json" } : {},
      body: body && JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Check that comity serve is running.");
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  const sentence = answer?.error?.message;
  throw new Error(sentence ? capital(sentence) + "." : `The server answered with status ${response.status}.`);
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const percent = (share) => `${(100 * share).toFixed(1)}%`;
const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
const tasksOf = (texts) => run.tasks.filter((task) => task.texts === texts);

function showError(id, sentence) {
  byId(id).textContent = sentence;
  byId(id).hidden = !sentence;
}

/** Tell screen readers; the same sentence twice must change the text to be read again. */
function announce(sentence) {
  const status = byId("status");
  status.textContent = status.textContent === sentence ? `${sentence}\u00a0` : sentence;
}

function setBusy(button, busy, label) {
  button.setAttribute("aria-disabled", String(busy));
  button.textContent = label;
}

const isBusy = (button) => button.getAttribute("aria-disabled") === "true";

// --- tabs ----------------------------------------------------------------------------------------

function visibleTabs() {
  return [...byId("tabs").children].filter((tab) => !tab.hidden);
}

function select(tab) {
  for (const other of byId("tabs").children) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    byId(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (tab.id === "tab-report") showReport();
  history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
}

function moveTab(event) {
  const tabs = visibleTabs();
  const now = tabs.indexOf(event.target);
  const next = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: tabs.length - 1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  const tab = tabs[(next + tabs.length) % tabs.length];
  select(tab);
  tab.focus();
}

function showReport() {
  if (byId("report").firstChild) return;
  const frame = element("iframe");
  frame.title = "Report of the run";
  frame.setAttribute("sandbox", "");
  frame.src = "report";
  byId("report").append(frame);
}

// --- one row -------------------------------------------------------------------------------------

/** What a task predicts, in a few words. */
function described(task) {
  const what = {
    classification: plural(task.classes.length, "class", "classes"),
    "multi-label": plural(task.classes.length, "label"),
    similarity: task.scale && `similarity from ${task.scale[0]} to ${task.scale[1]}`,
    regression: "a number",
  }[task.kind];
  return `${what ?? task.kind}, ${task.texts === 1 ? "for one text" : "for two texts"}`;
}

function card(task, ...children) {
  return element("article", "card", element("h2", "", task.name), ...children);
}

/** The card of a task that has no answer. */
function waitingCard(task, hint) {
  const made = card(task, element("p", "about", capital(described(task)) + hint));
  made.classList.add("waiting");
  return made;
}

function bars(prediction) {
  const list = element("ul", "bars");
  const chosen = [prediction.label].flat();
  const entries = Object.entries(prediction.probabilities);
  const many = entries.length > SHOWN_CLASSES + 2;
  if (many) entries.sort((one, other) => other[1] - one[1]);
  const rows = entries.map(([name, share]) => {
    const fill = element("span");
    fill.style.width = percent(share);
    const track = element("span", "track", fill);
    track.setAttribute("aria-hidden", "true");
    const row = element("li", chosen.includes(name) ? "chosen" : "");
    row.append(element("span", "name", name), track, element("span", "share", percent(share)));
    return row;
  });
  list.append(...rows);
  if (!many) return [list];
  const more = element("button", "plain", `Show all ${entries.length}`);
  more.type = "button";
  rows.slice(SHOWN_CLASSES).forEach((row) => (row.hidden = true));
  more.addEventListener("click", () => {
    rows.forEach((row) => (row.hidden = false));
    more.remove();
  });
  return [list, more];
}

/** Where a number is on the scale of a similarity. */
function scale(task, value) {
  const [low, high] = task.scale;
  const fill = element("span");
  fill.style.width = `${(100 * Math.min(Math.max((value - low) / (high - low), 0), 1)).toFixed(1)}%`;
  const made = element("div", "scale", String(low), element("span", "track", fill), String(high));
  made.setAttribute("aria-hidden", "true");
  return made;
}

const isNumeric = (name) => /^[0-9.+-]+$/.test(name);

/** A prediction's label as people read it, with a small word before or after it. */
function shownLabel(task, { label }) {
  if (typeof label === "number") return ["", label.toFixed(2), task.scale ? ` of ${task.scale[1]}` : ""];
  if (Array.isArray(label)) return label.length ? ["", label.join(", "), ""] : ["no label", "", ""];
  return [isNumeric(label) ? "class " : "", label, ""];
}

function answer(task, prediction) {
  const [before, shown, after] = shownLabel(task, prediction);
  const label = element("p", "label", element("small", "", before), shown, element("small", "", after));
  const parts = [label];
  if (Object.keys(prediction.probabilities).length) parts.push(...bars(prediction));
  else if (task.scale) parts.push(scale(task, prediction.label));
  const notes = [];
  if (prediction.truncated) notes.push(`Cut to ${task.max_length} tokens, the most that this task reads.`);
  if (prediction.clipped) notes.push("The score was beyond the scale and is now its end.");
  if (notes.length) parts.push(element("p", "note", notes.join(" ")));
  return parts;
}

function answerCard(task, predictions) {
  const made = card(task, element("p", "about", capital(described(task))));
  if (predictions.length === 1) {
    made.append(...answer(task, predictions[0]));
    return made;
  }
  ["First text", "Second text"].forEach((title, index) => {
    made.append(element("h3", "", title), ...answer(task, predictions[index]));
  });
  return made;
}

function showTasks() {
  const hint = (task) => (task.texts === 2 ? ". Needs a second text." : ".");
  byId("answers").replaceChildren(...run.tasks.map((task) => waitingCard(task, hint(task))));
}

async function predict(event) {
  event.preventDefault();
  const button = byId("predict-button");
  if (isBusy(button)) return;
  const [first, second] = [byId("first").value, byId("second").value];
  const single = tasksOf(1);
  const pairs = tasksOf(2);
  showError("predict-error", "");
  if (!first.trim() || (!single.length && !second.trim())) {
    const missing = first.trim() ? "second" : "first";
    showError("predict-error", single.length ? "Type a text first." : "Type both texts first.");
    byId(missing).focus();
    return;
  }
  setBusy(button, true, "Predicting…");
  byId("answers").setAttribute("aria-busy", "true");
  try {
    const found = {};
    const texts = second.trim() ? [first, second] : [first];
    const requests = [];
    if (single.length) requests.push(request("v1/predict", { texts }));
    if (pairs.length && second.trim()) requests.push(request("v1/predict", { pair: [first, second] }));
    for (const reply of await Promise.all(requests)) Object.assign(found, reply.tasks);
    const cards = run.tasks.map((task) =>
      found[task.name]
        ? answerCard(task, found[task.name])
        : waitingCard(task, ". Needs a second text."),
    );
    byId("answers").replaceChildren(...cards);
    const said = run.tasks
      .filter((task) => found[task.name])
      .map((task) => {
        const labels = found[task.name].map((prediction) => shownLabel(task, prediction).join(""));
        return `${task.name}: ${labels.join(", then ")}`;
      });
    announce(`${said.join("; ")}.`);
  } catch (error) {
    showError("predict-error", error.message);
  } finally {
    byId("answers").setAttribute("aria-busy", "false");
    setBusy(button, false, "Predict");
  }
}

function clearTexts() {
  byId("first").value = "";
  byId("second").value = "";
  showError("predict-error", "");
  showTasks();
  byId("first").focus();
}

// --- many rows -----------------------------------------------------------------------------------

let table = null; // {names, rows, numbers}: column names, rows of values, which columns are numbers
let stopping = null; // the AbortController of the requests that are running

const rowShape = () => Number(document.querySelector('input[name="shape"]:checked').value);

function showShapeHelp() {
  byId("lines-help").textContent =
    rowShape() === 1
      ? "One text per line. Paste a column of a spreadsheet, for example. Empty lines are left out."
      : 'Two texts per line, with a tab or " | " between them. Paste two columns of a spreadsheet, ' +
        "for example. Empty lines are left out.";
}

/** The rows in the text field; throws an Error that names the first line that is wrong. */
function readRows(texts) {
  const rows = [];
  byId("lines").value.split(/\r\n|\r|\n/).forEach((line, index) => {
    if (!line.trim()) return;
    const parts = texts === 1 ? [line] : line.split(line.includes("\t") ? "\t" : " | ");
    if (parts.length !== texts) {
      const what = parts.length === 1 ? "has one text" : `has ${parts.length} texts`;
      throw new Error(`Line ${index + 1} ${what}. Write two, with a tab or " | " between them.`);
    }
    const longest = Math.max(...parts.map((part) => [...part].length));
    if (longest > run.limits.characters) {
      const most = run.limits.characters.toLocaleString("en");
      throw new Error(`Line ${index + 1} has more than ${most} characters. Shorten it.`);
    }
    rows.push(parts);
  });
  if (!rows.length) throw new Error("There are no rows. Paste or type one per line.");
  return rows;
}

/** Rows in requests that stay below the server's limits. */
function* chunks(rows) {
  const mostBytes = run.limits.body_bytes / 2; // the rest is for quotes and escapes
  let chunk = [];
  let bytes = 0;
  for (const row of rows) {
    const own = new Blob(row).size;
    if (chunk.length && (chunk.length >= run.limits.texts || bytes + own > mostBytes)) {
      yield chunk;
      [chunk, bytes] = [[], 0];
    }
    chunk.push(row);
    bytes += own;
  }
  yield chunk;
}

async function predictRows(event) {
  event.preventDefault();
  const button = byId("rows-button");
  if (isBusy(button)) return;
  showError("rows-error", "");
  const texts = rowShape();
  const progress = byId("rows-progress");
  const done = [];
  try {
    const rows = readRows(texts);
    setBusy(button, true, "Predicting…");
    byId("stop-button").hidden = progress.hidden = false;
    progress.value = 0;
    byId("rows-count").textContent = `0 of ${plural(rows.length, "row")}`;
    announce(`Predicting ${plural(rows.length, "row")}.`);
    stopping = new AbortController();
    for (const chunk of chunks(rows)) {
      const body = texts === 1 ? { texts: chunk.map(([text]) => text) } : { pairs: chunk };
      const reply = await request("v1/predict", body, stopping.signal);
      chunk.forEach((row, index) => {
        const own = tasksOf(texts).map((task) => reply.tasks[task.name][index]);
        done.push({ row, predictions: own });
      });
      progress.value = done.length / rows.length;
      const count = `${done.length.toLocaleString("en")} of ${plural(rows.length, "row")}`;
      byId("rows-count").textContent = count;
    }
    announce(`${plural(done.length, "row")} predicted.`);
  } catch (error) {
    const kept = done.length ? ` The ${plural(done.length, "row")} before that are below.` : "";
    if (error.name === "AbortError") announce("Stopped.");
    else showError("rows-error", error.message + kept);
    byId("lines").focus();
  } finally {
    setBusy(button, false, "Predict rows");
    byId("stop-button").hidden = progress.hidden = true;
    if (done.length) showTable(texts, done);
  }
}

function showTable(texts, done) {
  const tasks = tasksOf(texts);
  const names = texts === 1 ? ["text"] : ["first", "second"];
  const kinds = names.map(() => "text");
  tasks.forEach((task, index) => {
    const prefix = tasks.length > 1 ? `${task.name}_` : "";
    const classes = Object.keys(done[0].predictions[index].probabilities);
    names.push(`${prefix}prediction`, ...classes.map((name) => `${prefix}p_${name}`));
    const isNumber = typeof done[0].predictions[index].label === "number";
    kinds.push(isNumber ? "number" : "", ...classes.map(() => "number"));
  });
  const rows = done.map(({ row, predictions }) => [
    ...row,
    ...predictions.flatMap(({ label, probabilities }) => [
      Array.isArray(label) ? label.join(", ") : label,
      ...Object.values(probabilities).map((share) => Number(share.toFixed(6))),
    ]),
  ]);
  table = { names, rows };
  const cell = (tag, index, value) => element(tag, kinds[index], value);
  const head = element("tr", "", ...names.map((name, index) => cell("th", index, name)));
  [...head.children].forEach((th) => (th.scope = "col"));
  const shown = rows.slice(0, SHOWN_ROWS).map((row) =>
    element("tr", "", ...row.map((value, index) => cell("td", index, shownCell(value)))),
  );
  byId("table").replaceChildren(element("thead", "", head), element("tbody", "", ...shown));
  byId("table-title").textContent = plural(rows.length, "row");
  byId("table-more").textContent =
    rows.length > SHOWN_ROWS ? `The first ${SHOWN_ROWS} rows are shown; a download has all.` : "";
  byId("table-part").hidden = false;
  byId("rows-count").textContent = "";
}

const shownCell = (value) => (typeof value === "number" ? value.toFixed(4) : value);

const FORMULA = /^'*[=+\-@\t\r]/;
const NUMBER = /^(?:[+-]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:inf|infinity|nan))$/i;

/** A text as a cell that no spreadsheet runs as a formula; as `comity predict` writes it. */
function protectedText(text) {
  return FORMULA.test(text) && !NUMBER.test(text.replace(/^'+/, "")) ? `'${text}` : text;
}

function csvCell(value) {
  const text = protectedText(String(value));
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function downloadCsv() {
  const lines = [table.names, ...table.rows].map((row) => row.map(csvCell).join(","));
  // The mark at the start tells spreadsheets that this is UTF-8.
  download("\ufeff" + lines.join("\r\n") + "\r\n", "text/csv", "predictions.csv");
}

function downloadJson() {
  const { names, rows } = table;
  const records = rows.map((row) => Object.fromEntries(row.map((value, index) => [names[index], value])));
  download(JSON.stringify(records, null, 1) + "\n", "application/json", "predictions.json");
}

function download(content, type, name) {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// --- start ---------------------------------------------------------------------------------------

function prepareForms() {
  const [single, pairs] = [tasksOf(1), tasksOf(2)];
  byId("second-field").hidden = !pairs.length;
  if (pairs.length) {
    byId("first-label").textContent = "First text";
    byId("second-help").textContent = single.length
      ? `Optional, for ${pairs.map((task) => task.name).join(" and ")}.`
      : "";
  }
  byId("shape").hidden = !(single.length && pairs.length);
  if (!single.length) document.querySelector('input[name="shape"][value="2"]').checked = true;
  showShapeHelp();
}

async function start() {
  byId("tabs").addEventListener("click", (event) => {
    if (event.target.getAttribute("role") === "tab") select(event.target);
  });
  byId("tabs").addEventListener("keydown", moveTab);
  try {
    run = await request("v1/tasks");
  } catch (error) {
    showError("start-error", `${error.message} Then load this page again.`);
    byId("predict").hidden = true;
    return;
  }
  byId("run").textContent = run.run;
  document.title = `${run.run} · Comity`;
  byId("tab-report").hidden = !run.report;
  prepareForms();
  showTasks();
  byId("predict-form").addEventListener("submit", predict);
  byId("clear-button").addEventListener("click", clearTexts);
  byId("rows-form").addEventListener("submit", predictRows);
  byId("stop-button").addEventListener("click", () => stopping?.abort());
  byId("shape").addEventListener("change", showShapeHelp);
  byId("csv-button").addEventListener("click", downloadCsv);
  byId("json-button").addEventListener("click", downloadJson);
  for (const [field, form] of [["first", "predict"], ["second", "predict"], ["lines", "rows"]]) {
    byId(field).addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId(`${form}-form`).requestSubmit();
    });
  }
  const tab = visibleTabs().find((other) => `#${other.getAttribute("aria-controls")}` === location.hash);
  if (tab) select(tab);
}

start();
