/** The real terminal and the real signals, seen from outside of a real process. */
import { expect, test } from "bun:test";

const program = [process.execPath, `${import.meta.dir}/../../test/fixtures/terminal.ts`];

function start(what: string, stdin = "") {
  return Bun.spawn([...program, what], { stdin: Buffer.from(stdin), stdout: "pipe", stderr: "pipe" });
}

/** Reads lines one by one as they come. */
async function* lines(stream: ReadableStream<Uint8Array>): AsyncGenerator<string, undefined> {
  let rest = "";
  for await (const chunk of stream) {
    const parts = (rest + new TextDecoder().decode(chunk)).split("\n");
    rest = parts.pop() ?? "";
    yield* parts;
  }
  return undefined;
}

test("all of a long output arrives, although the process ends at once and its reader is slow", async () => {
  const child = start("flood");
  await Bun.sleep(300);
  const text = await new Response(child.stdout).text();
  expect(text.split("\n").length - 1).toBe(40_000);
  expect(text).toEndWith("line 39999 of many\n");
  expect(await child.exited).toBe(0);
});

test("a reader that goes away is not an error", async () => {
  const child = Bun.spawn(["sh", "-c", `"$0" "$1" flood | head -n 1`, ...program], { stdout: "pipe", stderr: "pipe" });
  expect(await new Response(child.stdout).text()).toBe("line 0 of many\n");
  expect(await new Response(child.stderr).text()).toBe("");
});

test("a secret comes from a pipe as its first line, without a question", async () => {
  const child = start("secret", "s3cr€t\r\nmore\n");
  expect(await new Response(child.stdout).text()).toBe("<s3cr€t>\n");
  expect(await new Response(child.stderr).text()).toBe("");
});

/** Types `keys` behind the question, on a terminal of the program's own, made by script(1); all that the terminal showed. */
async function typed(what: string, question: string, keys: string): Promise<string> {
  const argv = ["script", "-qec", `${program.join(" ")} ${what}`, "/dev/null"];
  const child = Bun.spawn(argv, { stdin: "pipe", stdout: "pipe" });
  const reader = child.stdout.getReader();
  let text = "";
  while (!text.includes(question)) text += new TextDecoder().decode((await reader.read()).value);
  // Raw mode begins right behind the question.
  await Bun.sleep(200);
  child.stdin.write(keys);
  await child.stdin.flush();
  for (let part = await reader.read(); !part.done; part = await reader.read())
    text += new TextDecoder().decode(part.value);
  return text.replaceAll("\r", "");
}

test("on a terminal a secret is asked for, and never shown", async () => {
  expect(await typed("secret", "Password: ", "hux\u007fnter2\r")).toBe("Password: \n<hunter2>\n");
});

test("Ctrl-C at a question ends the program: it must not have to be answered first", async () => {
  expect(await typed("line", "Sure? ", "y\n")).toBe("Sure? y\n<y>\n");
  expect(await typed("line", "Sure? ", "\u0003")).toBe("Sure? ^C");
});

test("a closed standard output is not an error", async () => {
  const child = Bun.spawn(["sh", "-c", `"$0" "$1" terminal >&-; echo $?`, ...program], {
    stdout: "pipe",
    stderr: "pipe",
  });
  expect(await new Response(child.stdout).text()).toBe("0\n");
});

test("the first signal asks, the second hurries, the third ends it; SIGHUP only calls back", async () => {
  const child = start("wait");
  const said = lines(child.stdout);
  const next = async () => (await said.next()).value;
  expect(await next()).toBe("ready");
  child.kill("SIGHUP");
  expect(await next()).toBe("hangup");
  child.kill("SIGTERM");
  expect(await next()).toBe("first SIGTERM");
  child.kill("SIGINT");
  expect(await next()).toBe("second");
  child.kill("SIGINT");
  expect(await child.exited).toBe(130);
});

test.each([
  ["SIGINT", 130],
  ["SIGTERM", 143],
] as const)("a command that ends by %s has its exit code, and says why", async (signal, code) => {
  const child = start("obey");
  await lines(child.stdout).next();
  child.kill(signal);
  expect(await child.exited).toBe(code);
  expect(await new Response(child.stderr).text()).toBe(`rota: stopped by ${signal}\n`);
});
