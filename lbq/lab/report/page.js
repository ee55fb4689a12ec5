// Draws what lbq recorded.  Everything on the page comes out of `data`; text is only ever set as text.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const TITLES = { nat: "NAT", dr: "Direct routing", tun: "Tunnelling" };
const MEANS = "lbq: between what the director's queue gave it and what it gave back.  host: the kernel of the machine " +
  "that the packet was on, which routes it.  real server: the end of the tunnel.";
const WHO = { lbq: "lbq", host: "host", server: "real server" };
const byId = (id) => document.getElementById(id);
const isStill = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// ---- Elements

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}
const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const unseen = (text) => html("span", { class: "unseen" }, text);       // is read out, and not shown
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// An address may go on in the next line before its port, and nowhere else.
function breakable(endpoint) {
  const [address, port] = endpoint.split(/:(?=\d+$)/);
  return [address, html("wbr"), `:${port}`];
}

function table(caption, titles, ...rows) {
  return html("table", {}, caption ? html("caption", {}, caption) : null,
    titles ? html("thead", {}, html("tr", {}, ...titles.map((title) => html("th", { scope: "col" }, title)))) : null,
    html("tbody", {}, ...rows));
}

// ---- One connection

let story = data.stories.find((each) => each.mode === data.first);
let at = 0;

function titleOf(step) {
  if (step.kind === "lbq") return "lbq on the director";
  if (step.kind === "unwrap") return `${step.way[0]} unwraps it`;
  return `${step.way[0]} → ${step.way.at(-1)}`;
}

function showStep(number, isMoved = true) {
  at = Math.max(0, Math.min(number, story.steps.length - 1));
  const step = story.steps[at];
  const packet = story.packets[step.packet];
  byId("where").textContent = `Step ${at + 1} of ${story.steps.length}`;
  byId("step-title").textContent = `${packet.name}: ${titleOf(step)}`;
  byId("step-text").textContent = `After ${step.at_us.toFixed(0)} µs.  ${step.text}`;
  byId("entry").replaceChildren(...entryOf(step));
  byId("reasons").replaceChildren(...reasonsOf(step));
  byId("packet").replaceChildren(...packetOf(step, packet));
  allow(["first", "back"], at > 0);
  allow(["forward", "last"], at < story.steps.length - 1);
  markTimeline();
  drawWay(step);
  if (!isMoved) return;
  announce(`Step ${at + 1} of ${story.steps.length}, ${TITLES[story.mode]}.  ${packet.name}: ${titleOf(step)}.  ${changesInWords(step)}`);
  history.replaceState(null, "", `#${story.mode}/${at + 1}`);
}

// A button that were disabled would lose the focus, and with it who uses a keyboard.
function allow(names, isAllowed) {
  for (const name of names) byId(name).setAttribute("aria-disabled", String(!isAllowed));
}

function changesInWords(step) {
  const words = {};         // by header and who changed it
  for (const row of step.rows.filter((each) => each.by)) {
    const by = row.by.map((who) => WHO[who]).join(" and ");
    if (row.before === null) words[`${row.header} header put in front by ${by}`] = [];
    else if (row.value === null) words[`${row.header} header taken off by ${by}`] = [];
    else (words[`${row.header} changed by ${by}`] ||= []).push(row.field);
  }
  const said = Object.entries(words).map(([what, names]) => names.length ? `${what}: ${names.join(", ")}` : what);
  return said.length ? `${said.join(".  ")}.` : "Nothing has changed.";
}

function entryOf(step) {
  if (!step.entry) return [html("p", { class: "hint" }, "Connection table: nothing yet.")];
  const rows = Object.entries(step.entry).map(([name, value]) => {
    const before = name === "state" && step.state_before !== value ? step.state_before : null;
    return html("tr", { class: before !== null && step.kind === "lbq" ? "changed" : null }, html("th", { scope: "row" }, name),
      html("td", {}, step.kind === "lbq" && before ? html("del", {}, unseen("was "), before) : null, step.kind === "lbq" && before ? " → " : null, value));
  });
  return [table("The director's connection table", null, ...rows)];
}

function reasonsOf(step) {
  return (step.reasons || []).flatMap((reason) => {
    const parts = [html("p", {}, html("strong", {}, `${reason.step}: `), reason.text)];
    if (reason.steps?.length) parts.push(html("p", {}, reason.steps.join("; ")));
    if (!reason.candidates?.length) return parts;
    return [...parts, table("Who could have got it", ["Server", "Weight", "Active + inactive", "Score", "Why"],
      ...reason.candidates.map((each) => html("tr", { class: each.chosen ? "chosen" : null },
        ...[breakable(each.server), each.weight, `${each.active} + ${each.inactive}`, each.score, each.chosen ? "chosen" : each.why]
          .map((value) => html("td", {}, ...[value].flat())))))];
  });
}

function packetOf(step, packet) {
  const rows = [];
  let header = null;
  for (const row of step.rows) {
    if (row.header !== header) {
      header = row.header;
      rows.push(html("tr", { class: "title" }, html("th", { colspan: "3", scope: "colgroup" }, header)));
    }
    const isChanged = row.by !== undefined;
    const value = html("td", {});
    if (isChanged && row.before !== null) value.append(html("del", {}, unseen("was "), row.before), " ");
    if (row.value === null) value.append("gone");
    else value.append(isChanged ? html("ins", {}, row.before === null ? null : unseen("now "), row.value) : row.value);
    rows.push(html("tr", { class: isChanged ? "changed" : null }, html("th", { scope: "row" }, row.field), value,
      html("td", {}, ...(row.by || []).map((who) => html("span", { class: `by ${who}` }, WHO[who])))));
  }
  const parts = [table("The packet here", ["Field", "Value", "Changed by"], ...rows), html("p", { class: "hint" }, MEANS)];
  if (step.arithmetic?.length) parts.push(html("pre", {}, "RFC 1624\n" + step.arithmetic.join("\n")));
  if (packet.text) parts.push(html("p", {}, "Payload"), html("pre", {}, packet.text));
  return parts;
}

function drawTimeline() {
  byId("timeline").replaceChildren(...story.packets.map((packet, number) =>
    html("li", {}, html("span", { class: packet.is_reply ? "reply" : "request" }, packet.name),
      html("ol", {}, ...story.steps.flatMap((step, index) => step.packet !== number ? [] :
        [html("li", {}, html("button", { type: "button", "data-step": index, onclick: () => showStep(index) }, titleOf(step)))])))));
}

function markTimeline() {
  for (const button of byId("timeline").querySelectorAll("button")) {
    const isHere = Number(button.dataset.step) === at;
    if (!isHere) { button.removeAttribute("aria-current"); continue; }
    button.setAttribute("aria-current", "step");
    const list = byId("timeline");
    const [box, inside] = [list.getBoundingClientRect(), button.getBoundingClientRect()];
    if (inside.top < box.top || inside.bottom > box.bottom) list.scrollTop += inside.top - box.top - box.height / 3;
  }
}

function drawNetwork() {
  const place = Object.fromEntries(story.places.map((each) => [each.name, each]));
  const cables = story.cables.map(([a, b]) => svg("line", { class: "cable", "data-cable": [a, b].sort().join(" "),
    x1: place[a].x, y1: place[a].y, x2: place[b].x, y2: place[b].y }));
  const machines = story.places.map((each) => {
    const [width, height] = each.is_switch ? [52, 24] : [110, 22 + 15 * each.lines.length];
    return svg("g", {}, svg("rect", { "data-place": each.name, x: each.x - width / 2, y: each.y - height / 2, width, height, rx: 5 }),
      svg("text", { class: each.is_switch ? "" : "name", x: each.x, y: each.y - height / 2 + 16 }, each.name),
      ...each.lines.map((line, number) => svg("text", { x: each.x, y: each.y - height / 2 + 31 + 15 * number }, line)));
  });
  byId("network").replaceChildren(svg("title", { id: "network-title" }), ...cables, ...machines);
}

function drawWay(step) {
  const picture = byId("network");
  const cables = step.way.slice(1).map((name, number) => [step.way[number], name].sort().join(" "));
  for (const line of picture.querySelectorAll("[data-cable]")) line.classList.toggle("used", cables.includes(line.dataset.cable));
  for (const box of picture.querySelectorAll("[data-place]")) box.classList.toggle("used", step.way.includes(box.dataset.place));
  picture.querySelector("title").textContent =
    `The network of ${TITLES[story.mode]}: ${story.cables.map((pair) => pair.join(" to ")).join(", ")}.  The packet: ${step.way.join(" to ")}.`;
  picture.querySelector(".dot")?.remove();
  const points = step.way.map((name) => story.places.find((place) => place.name === name));
  const end = points.at(-1);
  const dot = svg("circle", { class: "dot", r: 8, cx: end.x, cy: end.y - (17 + 7.5 * end.lines.length) });
  picture.append(dot);
  if (points.length > 1 && !isStill()) {
    dot.animate(points.map((point) => ({ transform: `translate(${point.x - end.x}px, ${point.y - end.y}px)` })),
      { duration: 450, easing: "ease-in-out" });
  }
}

function showMode(mode, isMoved = true) {
  const before = story.steps[at];
  const nth = before ? story.steps.slice(0, at).filter((step) => step.packet === before.packet).length : 0;
  story = data.stories.find((each) => each.mode === mode);
  for (const button of byId("modes").children) button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
  byId("about").textContent = `${story.client} asks http://${story.vip}/ and ${story.server} answers: ` +
    `${story.packets.length} packets, ${story.steps.length} steps.`;
  drawNetwork();
  drawTimeline();
  showStep(sameStep(before, nth), isMoved);
}

// The step of this story that is most like `before` of another one: of the same packet and kind, or as far on its way.
function sameStep(before, nth) {
  if (!before) return 0;
  const steps = story.steps.map((step, index) => ({ step, index })).filter((each) => each.step.packet === before.packet);
  if (!steps.length) return story.steps.length - 1;
  return (steps.find((each) => before.kind === "lbq" && each.step.kind === "lbq") || steps[Math.min(nth, steps.length - 1)]).index;
}

function drawDifferences() {
  byId("differences").replaceChildren(table("", ["Question", ...data.stories.map((each) => TITLES[each.mode])],
    ...data.differences.map((row) => html("tr", {}, html("th", { scope: "row" }, row.question),
      ...data.stories.map((each) => html("td", {}, row[each.mode]))))));
}

// ---- All schedulers

const contest = data.contest;
const COLUMNS = 25;         // of the connections on a card
const PLAY_MS = 350;
let now = 0;                // connections that have come
let playing = null;

function drawCards() {
  const rows = Math.ceil(contest.visits.length / COLUMNS);
  byId("cards").replaceChildren(...contest.schedulers.map((scheduler) =>
    html("section", { class: "card", "aria-labelledby": `card-${scheduler.name}` },
      html("h3", { id: `card-${scheduler.name}` }, scheduler.name), html("p", {}, scheduler.title),
      svg("svg", { viewBox: `0 0 ${COLUMNS * 10} ${rows * 10}`, "aria-hidden": "true" }),
      table("", ["Server", "Got", "Open", "Score"], ...contest.servers.map((server, number) => html("tr", {},
        html("th", { scope: "row" }, `${server.name}, weight ${server.weight}`, html("span", { class: `meter s${number}` })), html("td", {}), html("td", {}), html("td", {})))),
      html("span", { class: "refused hint" }))));
}

function showContest(number, isMoved = true) {
  now = Math.max(0, Math.min(number, contest.visits.length));
  byId("contest-at").value = now;
  const visit = contest.visits[now - 1];
  byId("contest-where").textContent = visit
    ? `${now} of ${contest.visits.length}: from ${visit.client}, open for ${visit.lasts} steps` : `none of ${contest.visits.length} yet`;
  allow(["contest-back"], now > 0);
  allow(["contest-forward"], now < contest.visits.length);
  contest.schedulers.forEach((scheduler, index) => showCard(byId("cards").children[index], scheduler));
  if (isMoved && !playing) {
    announce(byId("contest-where").textContent);
    history.replaceState(null, "", `#schedulers/${now}`);
  }
}

function showCard(card, scheduler) {
  const come = scheduler.chosen.slice(0, now);
  card.querySelector("svg").replaceChildren(...contest.visits.flatMap((_, number) => {
    const [x, y] = [(number % COLUMNS) * 10, Math.floor(number / COLUMNS) * 10];
    const box = { x: x + 0.6, y: y + 0.6, width: 8.8, height: 8.8, rx: 1.5 };
    if (number >= now) return [svg("rect", { ...box, class: "cell" })];
    const server = come[number];
    return [svg("rect", { ...box, class: `${server === null ? "none" : `s${server}`}${number === now - 1 ? " last" : ""}` }),
      svg("text", { x: x + 5, y: y + 7.5 }, server === null ? "–" : contest.servers[server].name)];
  }));
  [...card.querySelectorAll("tbody tr")].forEach((row, server) => {
    const got = come.filter((each) => each === server).length;
    const open = come.filter((each, number) => each === server && number + contest.visits[number].lasts >= now).length;
    row.querySelector(".meter").style.width = `${(got / contest.visits.length) * 100}%`;
    row.children[1].textContent = got;
    row.children[2].textContent = open;
    row.children[3].textContent = now ? scheduler.scores[now - 1][server] : "";
  });
  const refused = come.filter((each) => each === null).length;
  card.querySelector(".refused").textContent = refused ? `${refused} found no server` : "";
}

function play(isOn) {
  clearInterval(playing);
  playing = null;
  if (isOn) {
    if (now === contest.visits.length) showContest(0);
    playing = setInterval(() => {
      showContest(now + 1);
      if (now === contest.visits.length) play(false);
    }, PLAY_MS);
  }
  byId("play").textContent = isOn ? "❚❚ Pause" : "▶ Play";
  if (!isOn) showContest(now);
}

// ---- The page

function announce(text) { byId("announce").textContent = text; }
const isOnSchedulers = () => !byId("schedulers").hidden;

function showPage(name) {
  for (const page of ["way", "schedulers"]) {
    byId(page).hidden = page !== name;
    if (page === name) byId(`to-${page}`).setAttribute("aria-current", "page");
    else byId(`to-${page}`).removeAttribute("aria-current");
  }
  if (name !== "schedulers" && playing) play(false);
}

// #way, #nat/12, #schedulers, #schedulers/40
function follow() {
  const [name, number] = location.hash.slice(1).split("/");
  if (name === "schedulers") {
    showPage("schedulers");
    if (number) showContest(parseInt(number, 10) || 0);
  } else if (data.stories.some((each) => each.mode === name)) {
    showPage("way");
    showMode(name);
    if (number) showStep((parseInt(number, 10) || 1) - 1);
  } else if (name !== "main") showPage("way");
}

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, .scrolls")) return;
  const [show, here, end] = isOnSchedulers() ? [showContest, now, contest.visits.length] : [showStep, at, story.steps.length - 1];
  const to = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: end }[event.key];
  if (to !== undefined) {
    event.preventDefault();
    show(to);
  } else if (areDigitsKeys && !isOnSchedulers() && data.stories[Number(event.key) - 1]) showMode(data.stories[Number(event.key) - 1].mode);
});

// Who speaks to the computer, or types into it by mistake, can switch keys of one character off (WCAG 2.2, 2.1.4).
let areDigitsKeys = true;
byId("digits").addEventListener("click", () => {
  areDigitsKeys = !areDigitsKeys;
  byId("digits").setAttribute("aria-pressed", String(areDigitsKeys));
});

const THEMES = { auto: ["automatic", "light"], light: ["light", "dark"], dark: ["dark", "auto"] };
byId("theme").addEventListener("click", () => {
  const next = THEMES[document.documentElement.dataset.theme][1];
  document.documentElement.dataset.theme = next;
  byId("theme").textContent = `Colours: ${THEMES[next][0]}`;
});
byId("first").addEventListener("click", () => showStep(0));
byId("back").addEventListener("click", () => showStep(at - 1));
byId("forward").addEventListener("click", () => showStep(at + 1));
byId("last").addEventListener("click", () => showStep(story.steps.length - 1));
byId("play").addEventListener("click", () => play(!playing));
byId("contest-back").addEventListener("click", () => showContest(now - 1));
byId("contest-forward").addEventListener("click", () => showContest(now + 1));
byId("contest-at").addEventListener("input", (event) => showContest(Number(event.target.value)));
byId("contest-at").max = contest.visits.length;
byId("contest-about").textContent = `Servers ${contest.servers.map((each) => `${each.name} of weight ${each.weight}`).join(", ")}.  ` +
  `${new Set(contest.visits.map((visit) => visit.client)).size} clients, one new connection a step; some stay long.  ` +
  "Every scheduler is the real one.  Score is what it looked at when it chose.";
byId("modes").append(...data.stories.map((each) =>
  html("button", { type: "button", "data-mode": each.mode, onclick: () => showMode(each.mode) }, TITLES[each.mode])));
drawDifferences();
drawCards();
showMode(story.mode, false);
showContest(0, false);
addEventListener("hashchange", follow);
follow();
