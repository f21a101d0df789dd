/** What osls passes to a function that serverless.yml includes, as `${file(infra/NAME.cjs):FUNCTION}`. */

export interface Osls {
  readonly options: { readonly param?: readonly string[]; readonly region?: string };
  /** @param variable as in serverless.yml between `${` and `}` */
  readonly resolveVariable: (variable: string) => Promise<unknown>;
}

/** Stops a deployment before anything is changed. @throws Error */
export function refuse(message: string): never {
  // osls prints the stack.
  throw Object.assign(new Error(message), { stack: message });
}
