// Sends whose message a client did not see again in time.

let count = 0;

/** So many there were since the start. */
export const givenUp = () => count;

/**
 * Waits for a send. A client looks for its message about 200 ms long, and then reports an error; the
 * message stands all the same, and the next sync finds it. On a machine with much else to do this is
 * no fault of a network, so it is counted, and the test that waits for the message finds it later.
 */
export async function sent(conversation, sending) {
  try {
    return await sending;
  } catch (error) {
    if (!/wait for intent/i.test(error.message ?? String(error))) throw error;
    count += 1;
    await conversation.sync();
  }
}
