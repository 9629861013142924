// Two people talk without a pause while one of them upgrades the service again and again. Prints what they saw.
import { chromium } from "playwright-core"

const [address, executablePath, screenshot, upgrades] = process.argv.slice(2)
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] })
try {
  const people = await Promise.all(["Ada", "Grace"].map(async (name) => {
    const context = await browser.newContext({ viewport: { width: 1180, height: 760 } })
    await context.addInitScript((name) => localStorage.setItem("name", name), name)
    const page = await context.newPage()
    const errors = []
    page.on("pageerror", (error) => errors.push(String(error)))
    await page.goto(`http://${address}/`)
    await page.waitForFunction(() => document.getElementById("state").textContent === "open")
    return { name, page, errors }
  }))

  // Each says the next thing as soon as it has heard the one before.
  const talks = people.map(({ name, page }) => page.evaluate(async (name) => {
    const spoken = () => [...document.querySelectorAll("li.said")].filter((item) => item.querySelector("b").textContent === name)
    const heard = (count) => new Promise((done) => {
      const look = () => spoken().length >= count && (observer.disconnect(), done())
      const observer = new MutationObserver(look)
      observer.observe(document.getElementById("history"), { childList: true })
      look()
    })
    let count = 0
    while (!globalThis.enough) {
      count += 1
      document.getElementById("text").value = `${name} says ${count}`
      document.getElementById("say").requestSubmit()
      await heard(count)
    }
    return count
  }, name))

  const [{ page }] = people
  for (let generation = 2; generation <= Number(upgrades) + 1; generation += 1) {
    await page.click("#upgrade")
    await page.waitForFunction((generation) => globalThis.chat.generation === generation, generation)
  }
  await page.screenshot({ path: screenshot })
  await Promise.all(people.map(({ page }) => page.evaluate(() => { globalThis.enough = true })))
  const said = await Promise.all(talks)
  const total = said[0] + said[1]

  const saw = []
  for (const { name, page, errors } of people) {
    // The last thing that the other said may still be on its way.
    await page.waitForFunction((total) => document.querySelectorAll("li.said").length >= total, total)
    saw.push(await page.evaluate(({ name, errors }) => ({
      name,
      errors,
      opens: globalThis.chat.opens,
      wrong: globalThis.chat.wrong,
      generation: globalThis.chat.generation,
      moves: document.getElementById("moves").textContent,
      error: document.getElementById("error").textContent,
      heard: [...document.querySelectorAll("li.said p")].map((text) => text.textContent),
    }), { name, errors }))
  }
  console.log(JSON.stringify({ said, saw }))
} finally {
  await browser.close()
}
