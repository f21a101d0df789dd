/** The function's entry point on Lambda. */

import { createHandler } from './handler.ts';

export const handler = createHandler(process.env);
