/** The steps of an event: the compiler refuses to leave one out, or to change their order. */

import { expect, test } from 'vitest';
import { runBarmanConfigSwitch } from '../../functions/config-switch/config-switch.ts';
import type { Event } from '../../functions/config-switch/event/event.ts';
import { parseRoleChange } from '../../functions/config-switch/event/payload.ts';
import { authenticate, authorise } from '../../functions/config-switch/event/sender.ts';
import type { SecretSource } from '../../functions/config-switch/event/signature.ts';

/** Never called: `npm test` fails if one of these lines compiles. */
async function wrongSteps(
  event: Event,
  source: SecretSource,
  options: Parameters<typeof runBarmanConfigSwitch>[0],
) {
  const sender = await authenticate(event, source);
  const roleChange = parseRoleChange(sender.payload());
  return [
    // @ts-expect-error: an event that is not authenticated has no payload that could be parsed
    parseRoleChange(event.payload()),
    // @ts-expect-error: an event is no authenticated sender
    await authorise(event, roleChange, source, event.signal),
    // @ts-expect-error: a payload that is not parsed cannot be authorised
    await authorise(sender, sender.payload(), source, event.signal),
    // @ts-expect-error: nor can a webhook that only says that it is authenticated
    await authorise({ payload: () => ({}) }, roleChange, source, event.signal),
    // @ts-expect-error: a role change that is not authorised is not run
    await runBarmanConfigSwitch(options, roleChange, 'version'),
  ];
}

test('the steps of an event › are checked by the compiler', () => {
  expect(wrongSteps).toBeTypeOf('function');
});
