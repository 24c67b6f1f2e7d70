// Bounded waiting: nothing here measures, it only keeps a failure from hanging.

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Asks `probe` again and again until it gives something other than undefined, null and false. */
export async function eventually(what, probe, seconds = 20) {
  const end = Date.now() + seconds * 1000;
  let last = "nothing yet";
  for (let pause = 5; ; pause = Math.min(pause * 2, 500)) {
    try {
      const found = await probe();
      if (found !== undefined && found !== null && found !== false) return found;
    } catch (error) {
      last = error.message ?? String(error);
    }
    if (Date.now() > end) throw new Error(`${what}: not within ${seconds} s; last: ${last}`);
    await sleep(pause);
  }
}

/** The result of `promise`, or an error after so many seconds. */
export async function within(what, seconds, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not done within ${seconds} s`)), seconds * 1000);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
