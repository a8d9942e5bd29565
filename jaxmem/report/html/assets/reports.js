/* Which report is shown, and what is made of its data when it is shown first. */
async function start() {
  const data = await unpack(document.getElementById("jaxmem-data").textContent);
  const articles = [...document.querySelectorAll("article[data-report]")];
  const buttons = [...document.querySelectorAll("button[data-shows]")];
  const drawn = new Map(), tabled = new Set();

  async function draw(article) {
    const number = Number(article.dataset.report), report = data.reports[number];
    const place = article.querySelector("[data-chart=map]"), details = article.querySelector("[data-details]");
    let map = null;
    const choose = (buffer) => {
      showDetails(details, bufferFacts(data, report, buffer));
      map?.mark(buffer);
    };
    const views = [];
    drawn.set(number, views);
    if (place) {
      map = await drawMap(place, article.querySelector("[aria-label='Part of the step']"), data, report, choose);
      views.push(map.view);
    }
    if (!tabled.has(number)) {
      tabled.add(number);
      const section = (kind) => article.querySelector(`[data-table=${kind}]`);
      buffersTable(section("buffers"), data, report, (buffer) => {
        article.chooseBuffer(buffer);
        details.scrollIntoView({ block: "nearest", behavior: "smooth" });
      });
      layersTable(section("layers"), data, report);
      ledgerTable(section("ledger"), data, report);
    }
    article.chooseBuffer = choose;
    const icicle = await drawIcicle(article.querySelector("[data-chart=icicle]"), article.querySelector(".crumbs"), data, report);
    views.push(icicle.view);
  }

  /* One after another: a drawing takes time, and a reader may ask for the next before it is done. */
  let last = Promise.resolve();
  const inTurn = (work) => {
    last = last.then(work);
    return last;
  };

  const show = (number) => inTurn(async () => {
    articles.forEach((article, place) => { article.hidden = place !== number; });
    buttons.forEach((button, place) => button.setAttribute("aria-pressed", String(place === number)));
    if (!drawn.has(number)) await draw(articles[number]);
    document.documentElement.dataset.shown = number;
  });

  buttons.forEach((button, place) => button.addEventListener("click", () => show(place)));
  const drawAnew = () => inTurn(async () => {
    drawn.forEach((views) => views.forEach((view) => view.remove()));
    drawn.clear();
    await draw(articles.find((article) => !article.hidden));
  });
  let waiting = 0;
  document.addEventListener("jaxmem-theme", () => {
    clearTimeout(waiting);
    waiting = setTimeout(drawAnew, 30);
  });
  await show(0);
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

start();
