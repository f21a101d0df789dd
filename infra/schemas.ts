/** JSON Schemas of payload and response, from the schemas that the function itself uses; `npm run docs` writes them. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ConversionConfig, type JsonSchema, toJsonSchema } from '@valibot/to-json-schema';
import { ResponseBody } from '../functions/config-switch/event/event.ts';
import { Payload } from '../functions/config-switch/event/payload.ts';

const CONVERSION: ConversionConfig = {
  target: 'draft-07',
  typeMode: 'input',
  // The only check is that of well-formed Unicode: no lone surrogates.
  overrideAction: ({ valibotAction, jsonSchema }) =>
    valibotAction.type === 'check' ? { ...jsonSchema, pattern: '^[^\\uD800-\\uDFFF]*$' } : undefined,
};

/** What a role change asks for (`requestedTarget`): one of these fields, and only one. */
const TARGETS: readonly JsonSchema[] = [
  { required: ['barman_model'], properties: { reset: { const: false }, follow_leader: { const: false } } },
  {
    required: ['reset'],
    properties: { reset: { const: true }, follow_leader: { const: false }, barman_model: false },
  },
  {
    required: ['follow_leader'],
    properties: { follow_leader: { const: true }, reset: { const: false }, barman_model: false },
  },
];

/** Returns what the documentation says of each field of the payload, as plain text. */
function descriptions(): ReadonlyMap<string, string> {
  const page = readFileSync(join(import.meta.dirname, '../docs/reference/payload-and-response.md'), 'utf8');
  const [, section = ''] = page.split('\n## The payload\n');
  const rows = [...section.matchAll(/^\| `(\w+)` \| [^|]* \| (.*) \|$/gm)];
  const plain = (text: string) => text.replace(/\[(.*?)\]\(.*?\)/g, '$1');
  return new Map(rows.map(([, name = '', text = '']) => [name, plain(text)]));
}

/** Returns the JSON Schema of the payload. @throws Error if the documentation has no text for a field */
export function payloadSchema(): JsonSchema {
  const { $schema, ...schema } = toJsonSchema(Payload, CONVERSION);
  const texts = descriptions();
  const properties = Object.entries(schema.properties ?? {}).map(([name, property]) => {
    const description = texts.get(name);
    if (description === undefined)
      throw new Error(`docs/reference/payload-and-response.md#the-payload has no field ${name}`);
    return [name, { description, ...Object(property) }];
  });
  return {
    ...($schema !== undefined && { $schema }),
    title: 'Payload of a role change',
    ...schema,
    properties: Object.fromEntries(properties),
    // The parser rejects an unknown key, so that a misspelt one is noticed.
    additionalProperties: false,
    // The other actions are skipped, whatever they ask for.
    anyOf: [{ properties: { action: { not: { const: 'on_role_change' } } } }, { oneOf: [...TARGETS] }],
  };
}

/** Returns the JSON Schema of the response; a later version may add fields. */
export function responseSchema(): JsonSchema {
  const { $schema, ...schema } = toJsonSchema(ResponseBody, { target: 'draft-07' });
  return { ...($schema !== undefined && { $schema }), title: 'Response to a role change', ...schema };
}
