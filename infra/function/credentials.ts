/** In the bundle instead of `@aws-sdk/credential-provider-node`: of its chain of providers, the one that Lambda uses. */

export { fromEnv as defaultProvider } from '@aws-sdk/credential-provider-env';
