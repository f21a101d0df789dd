/** Schemas that valibot lacks. */

import * as v from 'valibot';
import { quotedKey } from './text.ts';

/** Returns whether a value is an object with keys of its own, such as a JSON object. */
export function isObject(input: unknown): input is Record<string, unknown> {
  return typeof input === 'object' && input !== null && !Array.isArray(input);
}

/** Parses a JSON object. @throws Error that completes a sentence, such as "the parameter …", without the text */
export function parseObject(text: string): object {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new Error('is not JSON');
  }
  if (!isObject(json)) throw new Error('is not a JSON object');
  return json;
}

/** A map from a JSON object. Not valibot's record, which omits keys such as `constructor`. */
export const mapOf = <K extends v.GenericSchema<string>, V extends v.GenericSchema>(
  key: K,
  value: V,
  message: string,
) =>
  v.pipe(
    v.custom<object>(isObject, message),
    v.rawTransform(({ dataset, addIssue }) => {
      const input = dataset.value as Record<string, unknown>;
      const map = new Map<string, v.InferOutput<V>>();
      for (const [name, member] of Object.entries(input)) {
        const [wrongName] = v.safeParse(key, name).issues ?? [];
        if (wrongName) addIssue({ message: `${quotedKey(name)} ${wrongName.message}` });
        const result = v.safeParse(value, member);
        if (result.success) map.set(name, result.output);
        for (const { message, path = [] } of result.issues ?? []) {
          const item = { type: 'object', origin: 'value', input, key: name, value: member } as const;
          addIssue({ message, path: [item, ...path] });
        }
      }
      return map;
    }),
  );

/** A fact that is undefined if it is absent or of another form. */
export const fact = <T extends v.GenericSchema>(schema: T) => v.fallback(v.optional(schema), undefined);
