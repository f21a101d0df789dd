/** Bundled in place of `@aws-sdk/credential-provider-node`: only the provider that Lambda uses. */

export { fromEnv as defaultProvider } from '@aws-sdk/credential-provider-env';
